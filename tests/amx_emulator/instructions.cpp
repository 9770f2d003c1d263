// Each AMX instruction as a C function, for a test to call. Tiles are fixed: the result in tmm0,
// the first operand in tmm3, the second in tmm6.
#include <cstdint>

#include "emulator.h"

#define SHARED extern "C" __attribute__((visibility("default")))

SHARED void install() {
    amx_emulator::install(false);
}
SHARED void ldtilecfg(const void* p) {
    asm volatile("ldtilecfg (%0)" : : "r"(p) : "memory");
}
SHARED void sttilecfg(void* p) {
    asm volatile("sttilecfg (%0)" : : "r"(p) : "memory");
}
SHARED void tilerelease() {
    asm volatile("tilerelease");
}
SHARED void tilezero() {
    asm volatile("tilezero %%tmm0" : :);
}

#define LOAD(instruction, tile)                                                               \
    SHARED void instruction##_##tile(const void* p, std::int64_t stride) {                    \
        asm volatile(#instruction " (%0,%1,1), %%" #tile : : "r"(p), "r"(stride) : "memory"); \
    }
LOAD(tileloadd, tmm0)
LOAD(tileloadd, tmm3)
LOAD(tileloaddt1, tmm6)

SHARED void tilestored_tmm0(void* p, std::int64_t stride) {
    asm volatile("tilestored %%tmm0, (%0,%1,1)" : : "r"(p), "r"(stride) : "memory");
}
// Extended registers, a scaled index, a displacement: rows lie at p + 1000 + 8 stride r.
SHARED void tileloadd_tmm0_far(const void* p, std::int64_t stride) {
    asm volatile("mov %0, %%r12\n mov %1, %%r13\n tileloadd 1000(%%r12,%%r13,8), %%tmm0"
                 :
                 : "r"(p), "r"(stride)
                 : "r12", "r13", "memory");
}
SHARED void tilestored_tmm0_near(void* p, std::int64_t stride) {
    asm volatile("mov %0, %%rbx\n mov %1, %%r14\n tilestored %%tmm0, -16(%%rbx,%%r14,2)"
                 :
                 : "r"(p), "r"(stride)
                 : "rbx", "r14", "memory");
}

// Without an index register every row is the first.
SHARED void tileloadd_tmm3_no_index(const void* p) {
    asm volatile("tileloadd (%0), %%tmm3" : : "r"(p) : "memory");
}

#define PRODUCT(name)                                      \
    SHARED void name() {                                   \
        asm volatile(#name " %%tmm6, %%tmm3, %%tmm0" : :); \
    }
PRODUCT(tdpbssd)
PRODUCT(tdpbsud)
PRODUCT(tdpbusd)
PRODUCT(tdpbuud)

SHARED void illegal() {
    asm volatile("ud2");
}
