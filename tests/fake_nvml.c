/* Stands in for libnvidia-ml.so.1: GPUs as the file named by $FAKE_NVML describes them.
 *
 * The file holds lines "key=number"; it is read anew in every call, so that a test can change the
 * machine within a window. "key.1" is GPU 1's own value. Times are of the monotonic clock, so that
 * every process sees the same GPU.
 *
 *   init, gpus                 nvmlInit's result; how many GPUs there are
 *   fail.FUNCTION              the result of that function, instead of what it would do
 *   lost                       1: every call on the GPU answers that it is lost
 *   counter                    0: no energy counter
 *   energy_mj                  what the counter holds; else what the power adds up to
 *   power_mw, ramp_mw_per_s    power now, and how it rises from t0_ns on
 *   period_ms                  how often counter and power change; 0: always
 *   sample_ms                  the driver keeps power samples so far apart; 0: none
 *   clock_mhz, reasons, temperature_c, pids, first_pid, used_mib
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID = 2, UNSUPPORTED = 3, TOO_SMALL = 7, NO_DATA = 21, LOST = 15 };

typedef struct {
    unsigned index;
} Gpu;
static Gpu all_gpus[16];

static int find(const char* key, double* value) {
    const char* name = getenv("FAKE_NVML");
    FILE* file = name ? fopen(name, "r") : NULL;
    char line[128];
    int found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        char* sign = strchr(line, '=');
        if (!sign) continue;
        *sign = 0;
        if (!strcmp(line, key)) {
            *value = strtod(sign + 1, NULL);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static double number(const Gpu* gpu, const char* key, double otherwise) {
    char own[96];
    double value = otherwise;
    if (gpu) {
        snprintf(own, sizeof own, "%s.%u", key, gpu->index);
        if (find(own, &value)) return value;
    }
    find(key, &value);
    return value;
}

/* What a call on a GPU answers before it does anything. */
static int ready(const Gpu* gpu, const char* function) {
    char key[96];
    snprintf(key, sizeof key, "fail.%s", function);
    if (gpu < all_gpus || gpu >= all_gpus + 16) return INVALID;
    if (number(gpu, "lost", 0)) return LOST;
    return (int)number(gpu, key, SUCCESS);
}

static double clock_s(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static double stepped_s(const Gpu* gpu) {
    double now_s = clock_s(CLOCK_MONOTONIC), period_s = number(gpu, "period_ms", 0) / 1e3;
    return period_s > 0 ? (double)(long long)(now_s / period_s) * period_s : now_s;
}

static double power_mw(const Gpu* gpu, double time_s) {
    double rises_s = time_s - number(gpu, "t0_ns", 0) / 1e9;
    return number(gpu, "power_mw", 42000) + number(gpu, "ramp_mw_per_s", 0) * rises_s;
}

int nvmlInit_v2(void) {
    return (int)number(NULL, "init", SUCCESS);
}
int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return nvmlInit_v2();
}
int nvmlShutdown(void) {
    return SUCCESS;
}

const char* nvmlErrorString(int code) {
    switch (code) {
        case SUCCESS:
            return "Success";
        case INVALID:
            return "Invalid Argument";
        case UNSUPPORTED:
            return "Not Supported";
        case 4:
            return "Insufficient Permissions";
        case 9:
            return "Driver Not Loaded";
        case LOST:
            return "GPU is lost";
        default:
            return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char* text, unsigned size) {
    snprintf(text, size, "580.65.06");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned* count) {
    *count = (unsigned)number(NULL, "gpus", 1);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu** gpu) {
    if (index >= (unsigned)number(NULL, "gpus", 1)) return INVALID;
    all_gpus[index].index = index;
    *gpu = &all_gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetName(Gpu* gpu, char* text, unsigned size) {
    int code = ready(gpu, "nvmlDeviceGetName");
    if (code) return code;
    snprintf(text, size, "%s", number(gpu, "counter", 1) ? "Tesla T4" : "Tesla P4");
    return SUCCESS;
}

int nvmlDeviceGetArchitecture(Gpu* gpu, unsigned* architecture) {
    *architecture = number(gpu, "counter", 1) ? 6 : 4;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Gpu* gpu, unsigned long long* millijoules) {
    int code = ready(gpu, "nvmlDeviceGetTotalEnergyConsumption");
    if (code) return code;
    if (!number(gpu, "counter", 1)) return UNSUPPORTED;
    double held = number(gpu, "energy_mj", -1);
    *millijoules =
        (unsigned long long)(held >= 0 ? held : number(gpu, "power_mw", 42000) * stepped_s(gpu));
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Gpu* gpu, unsigned* milliwatts) {
    int code = ready(gpu, "nvmlDeviceGetPowerUsage");
    if (code) return code;
    *milliwatts = (unsigned)(power_mw(gpu, stepped_s(gpu)) + 0.5);
    return SUCCESS;
}

/* Power again, as fields 185 (average) and 186 (instant), which zeus asks for. */
typedef struct {
    unsigned field, scope;
    long long time_us, latency_us;
    unsigned type, result;
    union {
        unsigned milliwatts;
        unsigned long long wide;
    } value;
} Field;

int nvmlDeviceGetFieldValues(Gpu* gpu, int count, Field* fields) {
    for (int i = 0; i < count; ++i) {
        int known = fields[i].field == 185 || fields[i].field == 186;
        fields[i].type = 1;
        fields[i].value.wide = 0;
        fields[i].result =
            (unsigned)(known ? nvmlDeviceGetPowerUsage(gpu, &fields[i].value.milliwatts)
                             : UNSUPPORTED);
    }
    return SUCCESS;
}

typedef struct {
    unsigned long long time_us;
    union {
        double real;
        unsigned milliwatts;
        unsigned long long wide;
    } value;
} Sample;

int nvmlDeviceGetSamples(Gpu* gpu, int kind, unsigned long long after_us, int* type,
                         unsigned* count, Sample* samples) {
    int code = ready(gpu, "nvmlDeviceGetSamples");
    double gap_s = number(gpu, "sample_ms", 0) / 1e3;
    if (code) return code;
    if (kind != 0 || gap_s <= 0) return UNSUPPORTED;
    double now_s = clock_s(CLOCK_REALTIME), ahead_s = now_s - clock_s(CLOCK_MONOTONIC);
    unsigned found = 0, room = samples ? *count : 120;
    long long last = (long long)(now_s / gap_s);
    for (long long i = last - 119; i <= last; ++i) {
        double time_s = (double)i * gap_s;
        if (time_s * 1e6 <= (double)after_us || found == room) continue;
        if (samples) {
            samples[found].time_us = (unsigned long long)(time_s * 1e6);
            samples[found].value.wide = 0;
            samples[found].value.milliwatts = (unsigned)(power_mw(gpu, time_s - ahead_s) + 0.5);
        }
        ++found;
    }
    *type = 1;
    *count = found;
    return found ? SUCCESS : NO_DATA;
}

typedef struct {
    unsigned long long total, free, used;
} Memory;

int nvmlDeviceGetMemoryInfo(Gpu* gpu, Memory* memory) {
    int code = ready(gpu, "nvmlDeviceGetMemoryInfo");
    if (code) return code;
    memory->total = 16106127360ull;
    memory->used = (unsigned long long)number(gpu, "used_mib", 450) << 20;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(Gpu* gpu, int kind, unsigned* mhz) {
    int code = ready(gpu, "nvmlDeviceGetClockInfo");
    if (code) return code;
    *mhz = kind == 1 ? (unsigned)number(gpu, "clock_mhz", 1590) : 5001;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Gpu* gpu, unsigned long long* reasons) {
    int code = ready(gpu, "nvmlDeviceGetCurrentClocksEventReasons");
    if (code) return code;
    *reasons = (unsigned long long)number(gpu, "reasons", 0);
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Gpu* gpu, int sensor, unsigned* celsius) {
    int code = ready(gpu, "nvmlDeviceGetTemperature");
    if (code) return code;
    if (sensor != 0) return INVALID;
    *celsius = (unsigned)number(gpu, "temperature_c", 61);
    return SUCCESS;
}

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} Process;

int nvmlDeviceGetComputeRunningProcesses_v3(Gpu* gpu, unsigned* count, Process* processes) {
    int code = ready(gpu, "nvmlDeviceGetComputeRunningProcesses_v3");
    unsigned running = (unsigned)number(gpu, "pids", 0), room = *count;
    if (code) return code;
    *count = running;
    if (room < running) return TOO_SMALL;
    for (unsigned i = 0; i < running; ++i) {
        memset(&processes[i], 0, sizeof processes[i]);
        processes[i].pid = (unsigned)number(gpu, "first_pid", 1) + i;
    }
    return SUCCESS;
}

/* Settings: persistence, ecc, ecc_pending, limit_mw, default_limit_mw, app_mhz, default_app_mhz,
 * compute_mode. */
int nvmlDeviceGetPersistenceMode(Gpu* gpu, int* mode) {
    int code = ready(gpu, "nvmlDeviceGetPersistenceMode");
    if (!code) *mode = (int)number(gpu, "persistence", 1);
    return code;
}

int nvmlDeviceGetEccMode(Gpu* gpu, int* current, int* pending) {
    int code = ready(gpu, "nvmlDeviceGetEccMode");
    if (code) return code;
    *current = (int)number(gpu, "ecc", 0);
    *pending = (int)number(gpu, "ecc_pending", *current);
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(Gpu* gpu, unsigned* milliwatts) {
    int code = ready(gpu, "nvmlDeviceGetEnforcedPowerLimit");
    if (!code) *milliwatts = (unsigned)number(gpu, "limit_mw", 70000);
    return code;
}

int nvmlDeviceGetPowerManagementDefaultLimit(Gpu* gpu, unsigned* milliwatts) {
    int code = ready(gpu, "nvmlDeviceGetPowerManagementDefaultLimit");
    if (!code) *milliwatts = (unsigned)number(gpu, "default_limit_mw", 70000);
    return code;
}

int nvmlDeviceGetApplicationsClock(Gpu* gpu, int kind, unsigned* mhz) {
    int code = ready(gpu, "nvmlDeviceGetApplicationsClock");
    if (!code) *mhz = kind == 1 ? (unsigned)number(gpu, "app_mhz", 585) : 5001;
    return code;
}

int nvmlDeviceGetDefaultApplicationsClock(Gpu* gpu, int kind, unsigned* mhz) {
    int code = ready(gpu, "nvmlDeviceGetDefaultApplicationsClock");
    if (!code) *mhz = kind == 1 ? (unsigned)number(gpu, "default_app_mhz", 585) : 5001;
    return code;
}

int nvmlDeviceGetMaxClockInfo(Gpu* gpu, int kind, unsigned* mhz) {
    int code = ready(gpu, "nvmlDeviceGetMaxClockInfo");
    if (!code) *mhz = kind == 1 ? 1590 : 5001;
    return code;
}

int nvmlDeviceGetComputeMode(Gpu* gpu, int* mode) {
    int code = ready(gpu, "nvmlDeviceGetComputeMode");
    if (!code) *mode = (int)number(gpu, "compute_mode", 0);
    return code;
}
