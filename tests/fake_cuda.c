// libcuda.so.1 for the tests: a GPU whose queue takes 2 µs between any two events, and 1 ms more for
// each thousand of "kernels" that launch() queues. FAKE_CUDA names what goes wrong.
#include <stdlib.h>
#include <string.h>

static double now_ms;
static double events_ms[64];
static int created, alive;

static int fails(const char* what) {
    const char* const named = getenv("FAKE_CUDA");
    return named != NULL && strcmp(named, what) == 0;
}

int cuInit(unsigned flags) { return flags == 0 && !fails("init") ? 0 : 100; }
int cuCtxGetCurrent(void** context) {
    *context = fails("context") ? NULL : &now_ms;
    return 0;
}
int cuEventCreate(void** event, unsigned flags) {
    if (flags != 0 || created == 64) return 1;
    if (fails("second event") && created == 1) return 2;
    *event = &events_ms[created++];
    ++alive;
    return 0;
}
int cuEventRecord(void* event, void* stream) {
    if ((size_t)stream != 7 || fails("record")) return 400;
    now_ms += 0.002;
    *(double*)event = now_ms;
    return 0;
}
int cuEventSynchronize(void* event) { return event == NULL || fails("synchronize") ? 700 : 0; }
int cuEventElapsedTime(float* ms, void* first, void* second) {
    *ms = (float)(*(double*)second - *(double*)first);
    return 0;
}
int cuEventDestroy_v2(void* event) {
    (void)event;
    --alive;
    return 0;
}
int cuGetErrorName(int status, const char** name) {
    *name = status == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_FAKE";
    return 0;
}
void launch(void) { now_ms += 0.001; }
int events_alive(void) { return alive; }
