// Prefill of 8-bit weights in int8: mma.m8n8k16 with the weights as its 8 rows and the tokens as
// its 8 columns, int32 inside a group and float32 across groups.
//
// Nothing has to be unpacked: a lane's words of a tile are fragments, word i of row g the k 8t + 4i
// to 8t + 4i + 3, and one 64-bit read of shared memory is B for both words. A stage is 128 k, so
// a group's sums are complete before the next token tile begins and need few registers.
//
// Sums start at the bits of 1.5 * 2^23 as a float. While they stay below 2^22 (a group of 128 ends
// at 127 * 128 * 128 < 2^21) the integer sum is that float plus the sum: one subtraction converts
// it, where I2F would take four times as long. A scale for a whole row needs no sums in float:
// int32 holds 127 * 128 times 2^17 k.
// Other instructions for one IMMA in the main loop on sm_75, 64 tokens, groups of 128 / 64 / 32 / a
// row: 1.02 / 1.60 / 2.71 / 0.48; 169 to 190 registers, no spill.
#include "cuda/prefill_streams.h"

namespace sllmbench::cuda {
namespace prefill {
namespace {

constexpr int kTileLength = tile_length(8);
constexpr int kStageLength = kStageBytes;  // k
constexpr int kStageTiles = kStageLength / kTileLength;
constexpr int kWholeRow = 0;
constexpr std::int64_t kLongestRow = 1 << 17;
static_assert(kStageLength == kFoldLength);
// Lane 4g + t reads 8 bytes at 8t of token g: sixteen lanes, four tokens, must meet all 32 banks,
// so each token's row is shifted by 32 bytes.
constexpr int kPitch = kStageUnits + 2;

constexpr std::int32_t kMagicBits = 0x4b400000;
constexpr float kMagic = 0x1.8p23f;

// Sums of a row block and token tile: of rows g, then g + 8.
using Sums = std::int32_t[2][2];

// sums += the product of a tile (32 k) and the 8 bytes of x that a lane has for it.
__device__ __forceinline__ void multiply_tile(Sums& sums, const uint4& tile, const uint2& x) {
    mma_m8n8k16(sums[0], tile.x, x.x, sums[0]);
    mma_m8n8k16(sums[1], tile.z, x.x, sums[1]);
    mma_m8n8k16(sums[0], tile.y, x.y, sums[0]);
    mma_m8n8k16(sums[1], tile.w, x.y, sums[1]);
}

// totals += scales[row] * (sums - the magic number that they began with).
__device__ __forceinline__ void add(float (&totals)[4], const Sums& sums,
                                    const __half (&scales)[2]) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
        totals[i] = fmaf(__half2float(scales[i / 2]), __int_as_float(sums[i / 2][i % 2]) - kMagic,
                         totals[i]);
}

// What a warp keeps from stage to stage: floats, or integers where a row has one scale.
template <int kGroup, int kTokenTiles>
struct Totals {
    float of[kWarpRowBlocks][kTokenTiles][4] = {};
};
template <int kTokenTiles>
struct Totals<kWholeRow, kTokenTiles> {
    Sums of[kWarpRowBlocks][kTokenTiles] = {};
};

template <int kGroup, int kTokenTiles, bool kAsync>
__device__ __forceinline__ void multiply_block(const Operands& p) {
    using Stage = Stager<8 * kTokenTiles, kPitch, kAsync>;
    constexpr int kGroupLength = kGroup == kWholeRow ? kStageLength : kGroup;
    constexpr int kGroups = kStageLength / kGroupLength, kGroupTiles = kStageTiles / kGroups;
    using Weights = WeightStream<kStageTiles, kStageLength, kGroupLength, kGroups, 0>;
    __shared__ typename Stage::Buffer buffers[2];

    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int first_block = first_row_block();
    const int first_stage = static_cast<int>(blockIdx.z) * p.folds_per_split;
    const int end = min(first_stage + p.folds_per_split, p.folds);

    Totals<kGroup, kTokenTiles> totals;
    Stage stager(p, first_stage, static_cast<int>(threadIdx.x) % kStageUnits);
    Weights weights(p, first_block, first_stage, 0);
    stager.start(buffers[0]);
    auto tiles = weights.load_tiles();
    auto groups = weights.load_groups();
    stager.settle(buffers[0]);

    for (int stage = first_stage; stage < end; ++stage) {
        const int now = (stage - first_stage) % 2;
        stager.start(buffers[1 - now]);
        const auto next_tiles = weights.load_tiles();
        const auto next_groups = weights.load_groups();
#pragma unroll
        for (int token_tile = 0; token_tile < kTokenTiles; ++token_tile) {
            const auto* const x =
                reinterpret_cast<const uint2*>(buffers[now][8 * token_tile + lane / 4]) + lane % 4;
#pragma unroll
            for (int group = 0; group < kGroups; ++group) {
                Sums sums[kWarpRowBlocks];
#pragma unroll
                for (int b = 0; b < kWarpRowBlocks; ++b)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        if constexpr (kGroup == kWholeRow)
                            sums[b][i / 2][i % 2] = totals.of[b][token_tile][i / 2][i % 2];
                        else
                            sums[b][i / 2][i % 2] = kMagicBits;
                    }
#pragma unroll
                for (int i = 0; i < kGroupTiles; ++i) {
                    const int k_tile = group * kGroupTiles + i;
                    const uint2 unit = x[4 * k_tile];
#pragma unroll
                    for (int b = 0; b < kWarpRowBlocks; ++b)
                        multiply_tile(sums[b], tiles.of[b][k_tile], unit);
                }
#pragma unroll
                for (int b = 0; b < kWarpRowBlocks; ++b) {
                    if constexpr (kGroup == kWholeRow) {
#pragma unroll
                        for (int i = 0; i < 4; ++i)
                            totals.of[b][token_tile][i / 2][i % 2] = sums[b][i / 2][i % 2];
                    } else {
                        add(totals.of[b][token_tile], sums[b], groups.scales[b][group]);
                    }
                }
            }
        }
        tiles = next_tiles;
        groups = next_groups;
        stager.settle(buffers[1 - now]);
    }

#pragma unroll
    for (int b = 0; b < kWarpRowBlocks; ++b)
#pragma unroll
        for (int tile = 0; tile < kTokenTiles; ++tile) {
            float values[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if constexpr (kGroup == kWholeRow)
                    values[i] = static_cast<float>(totals.of[b][tile][i / 2][i % 2]) *
                                __half2float(groups.scales[b][0][i / 2]);
                else
                    values[i] = totals.of[b][tile][i];
            }
            write(p, first_block + b, static_cast<int>(blockIdx.x) * kTokenTiles + tile, values);
        }
}

template <int kGroup, int kTokenTiles, bool kAsync>
__global__ void __launch_bounds__(kThreads) multiply_i8(const Operands p) {
    if constexpr (kBuilt<kAsync>)
        multiply_block<kGroup, kTokenTiles, kAsync>(p);
    else
        fault();
}

const char* refusal_i8(const Product& product, const Device& device) {
    if (product.weight.bits != 8) return "prefill_w8a8 multiplies 8-bit weights";
    if (product.activations != Activations::int8) return "prefill_w8a8 multiplies int8 activations";
    if (product.weight.zeros != nullptr) return "prefill_w8a8 takes symmetric weights only";
    if (product.weight.k > kLongestRow) return "prefill_w8a8 takes k up to 131072";
    return refusal(product, device);
}

std::int64_t workspace_bytes(const Product& product, const Device& device) {
    return plan(product, device).workspace_bytes();
}

cudaError_t launch_i8(const Product& product, const Device& device, cudaStream_t stream) {
    const Plan how = plan(product, device);
    auto* const x = static_cast<std::int8_t*>(product.workspace);
    auto* const x_scales = reinterpret_cast<float*>(x + how.x_bytes);
    if (const cudaError_t status = gather_int8(product, x, x_scales, stream); status != cudaSuccess)
        return status;
    const Operands arguments = operands(product, how);
    const std::int64_t group = product.weight.group;
    const cudaError_t status = with_variant(how, device, [&](auto tiles, auto async) {
        const auto run = [&](auto kernel) {
            return launch(kernel, grid(product, how), dim3(kThreads), stream, arguments);
        };
        if (group >= product.weight.k) return run(multiply_i8<kWholeRow, tiles(), async()>);
        if (group == 32) return run(multiply_i8<32, tiles(), async()>);
        if (group == 64) return run(multiply_i8<64, tiles(), async()>);
        return run(multiply_i8<128, tiles(), async()>);
    });
    return status == cudaSuccess ? add_partials(product, how, stream) : status;
}

}  // namespace
}  // namespace prefill

const Kernel kPrefillW8A8 = {"prefill_w8a8", prefill::refusal_i8, prefill::workspace_bytes,
                             prefill::launch_i8};

}  // namespace sllmbench::cuda
