// Executes AMX instructions after the "Operation" sections of Intel's Software Developer's Manual,
// volume 2, and its exception classes AMX-E1 to AMX-E6: palette 1 is 8 tiles of at most 16 rows of
// 64 bytes. Encodings are the VEX ones without address-size and segment prefixes.
#include "emulator.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace amx_emulator {
namespace {

constexpr int kTiles = 8, kMaxRows = 16, kRowBytes = 64;

// As it lies in memory.
struct Config {
    std::uint8_t palette, start_row, reserved[14];
    std::uint16_t colsb[16];
    std::uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

struct Tile {
    std::uint8_t row[kMaxRows][kRowBytes];
};

// A thread's own, as on hardware: a new thread has no configuration.
struct State {
    Config config;  // palette 0: not configured
    Tile tile[kTiles];
};
thread_local State state;
bool off_by_one = false;

[[noreturn]] void fault(const char* instruction, const char* what) {
    for (const char* part : {"AMX emulator: ", instruction, ": ", what, "\n"})
        if (write(STDERR_FILENO, part, std::strlen(part)) < 0) break;
    std::abort();
}

// ---------------------------------------------------------------------------------- decoding

struct Instruction {
    int prefix;  // VEX.pp: none, 66, F3, F2
    int opcode;
    int mod, reg, rm, vvvv;
    std::uint8_t* address;  // memory operand, without the index
    std::int64_t stride;    // index register times scale
    bool has_sib;
    int length;
};

std::int64_t general_register(const ucontext_t& context, int number) {
    constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                              REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                              REG_R12, REG_R13, REG_R14, REG_R15};
    return context.uc_mcontext.gregs[kOrder[number]];
}

// Base, index and displacement; `at` points behind modrm and is left behind the operand.
void decode_memory(const ucontext_t& context, int extend_base, int extend_index,
                   const std::uint8_t*& at, Instruction& in) {
    std::int64_t base = 0;
    int displacement_bytes = in.mod == 1 ? 1 : in.mod == 2 ? 4 : 0;
    bool relative = false;
    in.has_sib = in.rm == 4;
    if (in.has_sib) {
        const int sib = *at++, index = (sib >> 3 & 7) | extend_index, low = sib & 7;
        if (index != 4) in.stride = general_register(context, index) * (1 << (sib >> 6));
        if (low == 5 && in.mod == 0)
            displacement_bytes = 4;
        else
            base = general_register(context, low | extend_base);
    } else if (in.rm == 5 && in.mod == 0) {
        relative = true;
        displacement_bytes = 4;
    } else {
        base = general_register(context, in.rm | extend_base);
    }
    std::int32_t displacement = 0;
    if (displacement_bytes == 1) displacement = static_cast<std::int8_t>(*at);
    if (displacement_bytes == 4) std::memcpy(&displacement, at, 4);
    at += displacement_bytes;
    if (relative) base = reinterpret_cast<std::int64_t>(at);
    in.address = reinterpret_cast<std::uint8_t*>(base + displacement);
}

// False when it is no AMX instruction that is known here.
bool decode(const ucontext_t& context, Instruction& in) {
    const auto* const start =
        reinterpret_cast<const std::uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
    const std::uint8_t* at = start;
    if (*at++ != 0xC4) return false;
    const int first = *at++, second = *at++;
    if ((first & 0x1F) != 2 || (second & 0x84) != 0) return false;  // map 0F38, W0, 128 bits
    in.prefix = second & 3;
    in.vvvv = ~(second >> 3) & 15;
    in.opcode = *at++;
    if (in.opcode != 0x49 && in.opcode != 0x4B && in.opcode != 0x5E) return false;
    const int modrm = *at++;
    in.mod = modrm >> 6;
    in.reg = modrm >> 3 & 7;
    in.rm = modrm & 7;
    in.stride = 0;
    in.has_sib = false;
    if (in.mod != 3) decode_memory(context, (first & 0x20) ? 0 : 8, (first & 0x40) ? 0 : 8, at, in);
    in.length = static_cast<int>(at - start);
    // There is no tmm8.
    return (first & 0x80) != 0 && (in.mod != 3 || (first & 0x20) != 0);
}

// --------------------------------------------------------------------------------- executing

int rows(int tile) {
    return state.config.rows[tile];
}
int column_bytes(int tile) {
    return state.config.colsb[tile];
}

void check_tile(const char* name, int tile) {
    if (state.config.palette == 0) fault(name, "#UD: this thread has loaded no tile configuration");
    if (rows(tile) == 0 || column_bytes(tile) == 0)
        fault(name, "#UD: the configuration leaves this tile out");
}

void load_config(const std::uint8_t* from) {
    Config fresh;
    std::memcpy(&fresh, from, sizeof fresh);
    if (fresh.palette > 1) fault("ldtilecfg", "#GP: no such palette");
    if (fresh.palette == 0) return static_cast<void>(std::memset(&state, 0, sizeof state));
    if (fresh.start_row != 0)
        fault("ldtilecfg", "going on with an interrupted load is not emulated");
    for (const std::uint8_t byte : fresh.reserved)
        if (byte != 0) fault("ldtilecfg", "#GP: a reserved byte is not 0");
    for (int t = kTiles; t < 16; ++t)
        if (fresh.colsb[t] != 0 || fresh.rows[t] != 0)
            fault("ldtilecfg", "#GP: palette 1 has 8 tiles");
    for (int t = 0; t < kTiles; ++t) {
        if (fresh.colsb[t] > kRowBytes) fault("ldtilecfg", "#GP: more than 64 bytes a row");
        if (fresh.rows[t] > kMaxRows) fault("ldtilecfg", "#GP: more than 16 rows");
        if ((fresh.colsb[t] == 0) != (fresh.rows[t] == 0))
            fault("ldtilecfg", "#GP: a tile with rows and no columns, or the reverse");
    }
    std::memset(&state, 0, sizeof state);
    state.config = fresh;
}

void load_tile(const Instruction& in) {
    check_tile("tileload", in.reg);
    Tile fresh{};
    for (int r = 0; r < rows(in.reg); ++r)
        std::memcpy(fresh.row[r], in.address + r * in.stride,
                    static_cast<std::size_t>(column_bytes(in.reg)));
    state.tile[in.reg] = fresh;
}

void store_tile(const Instruction& in) {
    check_tile("tilestored", in.reg);
    for (int r = 0; r < rows(in.reg); ++r)
        std::memcpy(in.address + r * in.stride, state.tile[in.reg].row[r],
                    static_cast<std::size_t>(column_bytes(in.reg)));
}

void check_product(int c, int a, int b) {
    constexpr const char* kName = "tdpb";
    if (c == a || c == b || a == b) fault(kName, "#UD: the same tile twice");
    for (const int tile : {c, a, b}) {
        check_tile(kName, tile);
        if (column_bytes(tile) % 4 != 0) fault(kName, "#UD: row bytes are no multiple of 4");
    }
    if (rows(c) != rows(a)) fault(kName, "#UD: result and first operand differ in rows");
    if (column_bytes(c) != column_bytes(b))
        fault(kName, "#UD: result and second operand differ in columns");
    if (column_bytes(a) / 4 != rows(b))
        fault(kName, "#UD: the first operand's columns are not the second's rows");
}

template <class A, class B>
void multiply(int c, int a, int b) {
    const int columns = column_bytes(c) / 4;
    Tile result{};  // rows and columns beyond the configured ones become 0
    for (int m = 0; m < rows(c); ++m)
        std::memcpy(result.row[m], state.tile[c].row[m], static_cast<std::size_t>(4 * columns));
    for (int k = 0; k < rows(b); ++k) {
        std::int32_t weights[4][16];
        for (int n = 0; n < 16; ++n)
            for (int i = 0; i < 4; ++i)
                weights[i][n] = static_cast<B>(state.tile[b].row[k][4 * n + i]);
        for (int m = 0; m < rows(c); ++m) {
            std::uint32_t sum[16];  // wraps
            std::memcpy(sum, result.row[m], sizeof sum);
            for (int i = 0; i < 4; ++i) {
                const std::int32_t x = static_cast<A>(state.tile[a].row[m][4 * k + i]);
                for (int n = 0; n < 16; ++n)
                    sum[n] += static_cast<std::uint32_t>(x * weights[i][n]);
            }
            if (off_by_one && k == 0) ++sum[0];
            std::memcpy(result.row[m], sum, static_cast<std::size_t>(4 * columns));
        }
    }
    state.tile[c] = result;
}

void multiply(const Instruction& in) {
    const int c = in.reg, a = in.rm, b = in.vvvv;
    check_product(c, a, b);
    switch (in.prefix) {
        case 0:
            return multiply<std::uint8_t, std::uint8_t>(c, a, b);
        case 1:
            return multiply<std::uint8_t, std::int8_t>(c, a, b);
        case 2:
            return multiply<std::int8_t, std::uint8_t>(c, a, b);
        default:
            return multiply<std::int8_t, std::int8_t>(c, a, b);
    }
}

enum Prefix { none = 0, x66 = 1, xF3 = 2, xF2 = 3 };

bool execute(const Instruction& in) {
    const bool memory = in.mod != 3;
    if (in.opcode == 0x5E) {
        if (memory || in.vvvv >= kTiles) return false;
        return multiply(in), true;
    }
    if (in.vvvv != 0) return false;
    if (in.opcode == 0x4B) {
        if (!memory || !in.has_sib || in.prefix == none) return false;
        return in.prefix == xF3 ? store_tile(in) : load_tile(in), true;
    }
    if (in.prefix == xF2 && !memory && in.rm == 0) {
        check_tile("tilezero", in.reg);
        return std::memset(&state.tile[in.reg], 0, sizeof(Tile)), true;
    }
    if (in.reg != 0) return false;
    if (in.prefix == none && memory) return load_config(in.address), true;
    if (in.prefix == x66 && memory) return std::memcpy(in.address, &state.config, 64), true;
    if (in.prefix == none && in.rm == 0) return std::memset(&state, 0, sizeof state), true;
    return false;
}

void on_sigill(int, siginfo_t*, void* raw) {
    auto& context = *static_cast<ucontext_t*>(raw);
    Instruction in;
    if (!decode(context, in) || !execute(in)) {
        signal(SIGILL, SIG_DFL);  // the instruction is tried again, and ends the process
        return;
    }
    context.uc_mcontext.gregs[REG_RIP] += in.length;
}

}  // namespace

void install(bool wrong_products) {
    off_by_one = wrong_products;
    struct sigaction action{};
    action.sa_sigaction = on_sigill;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, nullptr);
}

}  // namespace amx_emulator
