/* libcuda.so.1 for the tests, as far as the CUDA runtime starts it.
 *
 * FAKE_DRIVER holds the driver's CUDA version and what cuInit returns, as "12040 0". A runtime that
 * finds a driver that starts goes on to tables which no header describes and to a check that the
 * driver is NVIDIA's. No stand-in gets past that, nor should one: what comes after is tested where
 * the runtime ends, in tests/cuda/runtime. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOT_FOUND = 500 };

static int said(int which) {
    int version = 0, status = 0;
    const char* text = getenv("FAKE_DRIVER");
    if (text) sscanf(text, "%d %d", &version, &status);
    return which == 0 ? version : status;
}

int cuInit(unsigned flags) {
    (void)flags;
    return said(1);
}
int cuDriverGetVersion(int* version) {
    *version = said(0);
    return 0;
}
int cuGetExportTable(const void** table, const void* id) {
    (void)id;
    *table = NULL;
    return NOT_FOUND;
}
static int unexpected(void) {
    fputs("a function of the driver was called that had failed to start\n", stderr);
    abort();
}

int cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long long flags,
                        int* status) {
    (void)version;
    (void)flags;
    if (status) *status = 0;
    *function = (void*)unexpected;
    if (!strcmp(name, "cuInit")) *function = (void*)cuInit;
    if (!strcmp(name, "cuDriverGetVersion")) *function = (void*)cuDriverGetVersion;
    if (!strcmp(name, "cuGetExportTable")) *function = (void*)cuGetExportTable;
    if (!strcmp(name, "cuGetProcAddress")) *function = (void*)cuGetProcAddress_v2;
    return 0;
}
int cuGetProcAddress(const char* name, void** function, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
