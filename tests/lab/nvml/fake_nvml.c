/* A stand-in for libnvidia-ml.so.1 that answers from a text profile.
 *
 * The profile is $FAKE_NVML_CONF, else /etc/fake-nvml.conf. It is read again whenever the file changes, so a GPU can
 * fail, or get busy, under a running program. No profile means that the kernel driver is not loaded.
 *
 *     driver = 570.172.08            what nvmlSystemGetDriverVersion says
 *     nvml   = 12.570.172.08         default: the driver's version behind CUDA's major version
 *     cuda   = 12080                 CUDA 12.8
 *     fail.nvmlInit = 18             any function may answer any NVML error code
 *     [gpu]                          one section for each GPU, in index order
 *     name   = NVIDIA GeForce RTX 4090
 *     uuid   = GPU-...               serial = ...      bus = 00000000:01:00.0
 *     brand  = 5                     an nvmlBrandType_t
 *     cc     = 8.9
 *     memory_mib = 24564             used_mib = 0      reserved_mib = 0
 *     mig    = -1                    -1: not supported, 0: off, 1: on
 *     instance = MIG-...:1g.10gb:9984  a MIG device, UUID:PROFILE:MiB; repeatable, for mig = 1
 *     util   = 0                     per cent
 *     proc   = 4242:1024:python      a compute process, PID:MiB[:NAME]; repeatable
 *     gfx    = 900:120:Xorg          a graphics process; repeatable
 *     fail   = 15                    every call on this GPU answers 15, the look-up of its handle too
 *     fail.nvmlDeviceGetMemoryInfo = 999
 *
 * 'fail.nvmlInit' also means nvmlInit_v2 and nvmlInitWithFlags: the versions of a function fail together.
 * Keys that are not known here belong to the node's set-up and are passed over.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
};
enum { MAX_GPUS = 64, MAX_INSTANCES = 64, MIG_SLOTS = 7, MAX_PROCESSES = 32, MAX_FAULTS = 32, TEXT = 96 };

typedef struct { char function[TEXT]; int code; } Fault;
typedef struct { Fault list[MAX_FAULTS]; int count; } Faults;
typedef struct { unsigned pid; unsigned long long bytes; char name[TEXT]; } Process;
typedef struct { Process list[MAX_PROCESSES]; unsigned count; } Processes;
typedef struct {
    unsigned index;
    int parent; /* of a MIG device: the index of its card; else -1 */
    char name[TEXT], uuid[TEXT], bus[32], serial[30];
    unsigned long long memory, used, reserved;
    int major, minor, brand, mig, utilisation, fail;
    Processes compute, graphics;
    Faults faults;
} Gpu;
typedef struct {
    char driver[80], nvml[80];
    int cuda;
    unsigned gpu_count, instance_count;
    Faults faults;
    Gpu gpus[MAX_GPUS], instances[MAX_INSTANCES];
} Profile;

static Profile profile;
static struct stat profile_read; /* st_ino is 0 while no profile is in use */
static int initialisations;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- reading a profile ---------------------------------------------------------------------------------------- */

#define COPY(field, text) snprintf(field, sizeof(field), "%s", text)

static unsigned long long mebibytes(const char *text) { return strtoull(text, NULL, 10) << 20; }

static void add_fault(Faults *faults, const char *function, const char *code) {
    if (faults->count == MAX_FAULTS) return;
    Fault *fault = &faults->list[faults->count++];
    COPY(fault->function, function);
    fault->code = atoi(code);
}

static void add_process(Processes *processes, const char *text) {
    if (processes->count == MAX_PROCESSES) return;
    Process *process = &processes->list[processes->count++];
    unsigned long long mib = 0;
    COPY(process->name, "python");
    sscanf(text, "%u:%llu:%95[^\n]", &process->pid, &mib, process->name);
    process->bytes = mib << 20;
}

static Gpu *add_gpu(void) {
    Gpu *gpu = &profile.gpus[profile.gpu_count];
    gpu->index = profile.gpu_count++;
    gpu->major = 8;
    gpu->mig = gpu->parent = -1;
    gpu->brand = 5;
    gpu->memory = 24576ull << 20;
    COPY(gpu->name, "NVIDIA GeForce RTX");
    snprintf(gpu->uuid, TEXT, "GPU-00000000-0000-0000-0000-%012u", gpu->index + 1);
    snprintf(gpu->bus, sizeof gpu->bus, "00000000:%02X:00.0", gpu->index + 1);
    snprintf(gpu->serial, sizeof gpu->serial, "13200%08u", gpu->index);
    return gpu;
}

/* Its name and its memory are its own, the rest is the card's. */
static void add_instance(const Gpu *card, const char *text) {
    if (profile.instance_count == MAX_INSTANCES) return;
    Gpu *instance = &profile.instances[profile.instance_count];
    char kind[32] = "";
    unsigned long long mib = 0;
    *instance = *card;
    instance->index = profile.instance_count++;
    instance->parent = (int)card->index;
    instance->mig = -1;
    instance->used = instance->reserved = 0;
    sscanf(text, "%95[^:]:%31[^:]:%llu", instance->uuid, kind, &mib);
    snprintf(instance->name, TEXT, "%.50s MIG %s", card->name, kind);
    instance->memory = mib << 20;
}

static void set_system(const char *key, const char *value) {
    if (!strcmp(key, "driver")) COPY(profile.driver, value);
    else if (!strcmp(key, "nvml")) COPY(profile.nvml, value);
    else if (!strcmp(key, "cuda")) profile.cuda = atoi(value);
    else if (!strncmp(key, "fail.", 5)) add_fault(&profile.faults, key + 5, value);
}

static void set_gpu(Gpu *gpu, const char *key, const char *value) {
    if (!strcmp(key, "name")) COPY(gpu->name, value);
    else if (!strcmp(key, "uuid")) COPY(gpu->uuid, value);
    else if (!strcmp(key, "bus")) COPY(gpu->bus, value);
    else if (!strcmp(key, "serial")) COPY(gpu->serial, value);
    else if (!strcmp(key, "memory_mib")) gpu->memory = mebibytes(value);
    else if (!strcmp(key, "used_mib")) gpu->used = mebibytes(value);
    else if (!strcmp(key, "reserved_mib")) gpu->reserved = mebibytes(value);
    else if (!strcmp(key, "cc")) sscanf(value, "%d.%d", &gpu->major, &gpu->minor);
    else if (!strcmp(key, "brand")) gpu->brand = atoi(value);
    else if (!strcmp(key, "mig")) gpu->mig = atoi(value);
    else if (!strcmp(key, "instance")) add_instance(gpu, value);
    else if (!strcmp(key, "util")) gpu->utilisation = atoi(value);
    else if (!strcmp(key, "proc")) add_process(&gpu->compute, value);
    else if (!strcmp(key, "gfx")) add_process(&gpu->graphics, value);
    else if (!strcmp(key, "fail")) gpu->fail = atoi(value);
    else if (!strncmp(key, "fail.", 5)) add_fault(&gpu->faults, key + 5, value);
}

static void parse(FILE *file) {
    char line[512], key[TEXT], value[256];
    Gpu *gpu = NULL;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "#\n")] = 0;
        for (size_t end = strlen(line); end && strchr(" \t\r", line[end - 1]);) line[--end] = 0;
        if (strstr(line, "[gpu]") && profile.gpu_count < MAX_GPUS) gpu = add_gpu();
        else if (sscanf(line, " %95[^= ] = %255[^\n]", key, value) != 2) continue;
        else if (gpu) set_gpu(gpu, key, value);
        else set_system(key, value);
    }
}

static int unchanged(const struct stat *now) {
    return profile_read.st_ino == now->st_ino && profile_read.st_size == now->st_size &&
           !memcmp(&profile_read.st_mtim, &now->st_mtim, sizeof now->st_mtim);
}

/* Whether there is a driver to talk to. The caller holds the lock. */
static int refresh(void) {
    const char *path = getenv("FAKE_NVML_CONF");
    struct stat now;
    FILE *file = fopen(path ? path : "/etc/fake-nvml.conf", "r");
    if (!file || fstat(fileno(file), &now)) {
        if (file) fclose(file);
        profile_read.st_ino = 0;
        return 0;
    }
    if (!unchanged(&now)) {
        memset(&profile, 0, sizeof profile);
        parse(file);
        if (!*profile.nvml) snprintf(profile.nvml, 80, "%d.%.60s", profile.cuda / 1000, profile.driver);
        profile_read = now;
    }
    fclose(file);
    return 1;
}

/* ---- what every call goes through ----------------------------------------------------------------------------- */

static int same_function(const char *wanted, const char *function) {
    size_t length = strlen(wanted);
    const char *rest = function + length;
    return !strncmp(wanted, function, length) && (!*rest || !strncmp(rest, "_v", 2) || !strcmp(rest, "WithFlags"));
}

static int injected(const Faults *faults, const char *function) {
    for (int i = 0; i < faults->count; i++)
        if (same_function(faults->list[i].function, function)) return faults->list[i].code;
    return SUCCESS;
}

static int enter(const char *function, int initialised) {
    if (!refresh()) return DRIVER_NOT_LOADED;
    if (!initialised) return UNINITIALIZED;
    return injected(&profile.faults, function);
}

static int enter_gpu(const char *function, const Gpu *gpu) {
    int code = enter(function, initialisations);
    if (code) return code;
    if (gpu >= profile.instances && gpu < profile.instances + MAX_INSTANCES) {
        if (gpu->index >= profile.instance_count || gpu != &profile.instances[gpu->index]) return GPU_IS_LOST;
        gpu = &profile.gpus[gpu->parent];
    }
    if (gpu < profile.gpus || gpu >= profile.gpus + MAX_GPUS) return INVALID_ARGUMENT;
    if (gpu->index >= profile.gpu_count || gpu != &profile.gpus[gpu->index]) return GPU_IS_LOST;
    if ((code = injected(&gpu->faults, function))) return code;
    return gpu->fail;
}

/* A handle is handed out only for a GPU that answers at all. */
static int hand_out(const char *function, Gpu *gpu, Gpu **handle) {
    int code = enter_gpu(function, gpu);
    if (!code) *handle = gpu;
    return code;
}

static int put_text(char *out, unsigned size, const char *text) {
    if (strlen(text) >= size) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

/* The last argument of each is the body; its value is the code that is answered. */
#define LOCKED(expression) pthread_mutex_lock(&lock); int code = (expression); pthread_mutex_unlock(&lock); return code
#define SYSTEM(function, arguments, body) \
    int function arguments { LOCKED(({ int r = enter(#function, initialisations); r ? r : (body); })); }
#define DEVICE(function, arguments, body) \
    int function arguments { LOCKED(({ int r = enter_gpu(#function, gpu); r ? r : (body); })); }

static int initialise(const char *function) {
    LOCKED(({ int r = enter(function, 1); if (!r) initialisations++; r; }));
}
int nvmlInit(void) { return initialise("nvmlInit"); }
int nvmlInit_v2(void) { return initialise("nvmlInit_v2"); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return initialise("nvmlInitWithFlags"); }
int nvmlShutdown(void) { LOCKED(initialisations ? (initialisations--, SUCCESS) : UNINITIALIZED); }

const char *nvmlErrorString(int code) {
    static const char *const texts[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires restart",
        "The operating system has blocked the request.", "RM has detected an NVML/RM version mismatch.",
    };
    return code >= 0 && code < (int)(sizeof texts / sizeof *texts) ? texts[code] : "Unknown Error";
}

/* ---- the system ----------------------------------------------------------------------------------------------- */

SYSTEM(nvmlSystemGetDriverVersion, (char *out, unsigned size), put_text(out, size, profile.driver))
SYSTEM(nvmlSystemGetNVMLVersion, (char *out, unsigned size), put_text(out, size, profile.nvml))
SYSTEM(nvmlSystemGetCudaDriverVersion, (int *out), (*out = profile.cuda, SUCCESS))
SYSTEM(nvmlSystemGetCudaDriverVersion_v2, (int *out), (*out = profile.cuda, SUCCESS))
SYSTEM(nvmlDeviceGetCount, (unsigned *out), (*out = profile.gpu_count, SUCCESS))
SYSTEM(nvmlDeviceGetCount_v2, (unsigned *out), (*out = profile.gpu_count, SUCCESS))

static const char *name_of(const Processes *processes, unsigned pid) {
    for (unsigned i = 0; i < processes->count; i++)
        if (processes->list[i].pid == pid) return processes->list[i].name;
    return NULL;
}
static int process_name(unsigned pid, char *out, unsigned size) {
    for (unsigned i = 0; i < profile.gpu_count; i++) {
        const char *name = name_of(&profile.gpus[i].compute, pid);
        if (!name) name = name_of(&profile.gpus[i].graphics, pid);
        if (name) return put_text(out, size, name);
    }
    return NOT_FOUND;
}
SYSTEM(nvmlSystemGetProcessName, (unsigned pid, char *out, unsigned size), process_name(pid, out, size))

/* ---- handles -------------------------------------------------------------------------------------------------- */

static int by_index(const char *function, unsigned index, Gpu **handle) {
    return index < profile.gpu_count ? hand_out(function, &profile.gpus[index], handle) : INVALID_ARGUMENT;
}
static int by_uuid(const char *function, const char *uuid, Gpu **handle) {
    for (unsigned i = 0; i < profile.gpu_count; i++)
        if (!strcmp(uuid, profile.gpus[i].uuid)) return hand_out(function, &profile.gpus[i], handle);
    return NOT_FOUND;
}
static int by_bus(const char *function, const char *bus, Gpu **handle) {
    for (unsigned i = 0; i < profile.gpu_count; i++)
        if (!strcasecmp(bus, profile.gpus[i].bus)) return hand_out(function, &profile.gpus[i], handle);
    return NOT_FOUND;
}
SYSTEM(nvmlDeviceGetHandleByIndex, (unsigned i, Gpu **out), by_index("nvmlDeviceGetHandleByIndex", i, out))
SYSTEM(nvmlDeviceGetHandleByIndex_v2, (unsigned i, Gpu **out), by_index("nvmlDeviceGetHandleByIndex", i, out))
SYSTEM(nvmlDeviceGetHandleByUUID, (const char *uuid, Gpu **out), by_uuid("nvmlDeviceGetHandleByUUID", uuid, out))
SYSTEM(nvmlDeviceGetHandleByPciBusId_v2, (const char *bus, Gpu **out), by_bus("nvmlDeviceGetHandleByPciBusId", bus, out))

/* ---- one GPU -------------------------------------------------------------------------------------------------- */

/* The values of nvmlDeviceArchitecture_t for compute capabilities since Pascal. */
static unsigned architecture(const Gpu *gpu) {
    if (gpu->major == 6) return 4;
    if (gpu->major == 7) return gpu->minor < 5 ? 5 : 6;
    if (gpu->major == 8) return gpu->minor < 9 ? 7 : 8;
    if (gpu->major == 9) return 9;
    return gpu->major >= 10 ? 10 : ~0u;
}

DEVICE(nvmlDeviceGetIndex, (Gpu *gpu, unsigned *out), (*out = gpu->index, SUCCESS))
DEVICE(nvmlDeviceGetMinorNumber, (Gpu *gpu, unsigned *out), (*out = gpu->index, SUCCESS))
DEVICE(nvmlDeviceGetName, (Gpu *gpu, char *out, unsigned size), put_text(out, size, gpu->name))
DEVICE(nvmlDeviceGetUUID, (Gpu *gpu, char *out, unsigned size), put_text(out, size, gpu->uuid))
DEVICE(nvmlDeviceGetSerial, (Gpu *gpu, char *out, unsigned size), put_text(out, size, gpu->serial))
DEVICE(nvmlDeviceGetBrand, (Gpu *gpu, int *out), (*out = gpu->brand, SUCCESS))
DEVICE(nvmlDeviceGetArchitecture, (Gpu *gpu, unsigned *out), (*out = architecture(gpu), SUCCESS))
DEVICE(nvmlDeviceGetCudaComputeCapability, (Gpu *gpu, int *major, int *minor),
       (*major = gpu->major, *minor = gpu->minor, SUCCESS))
DEVICE(nvmlDeviceGetPersistenceMode, (Gpu *gpu, unsigned *out), (*out = 1, SUCCESS))
DEVICE(nvmlDeviceGetComputeMode, (Gpu *gpu, unsigned *out), (*out = 0, SUCCESS))
DEVICE(nvmlDeviceGetTemperature, (Gpu *gpu, int sensor, unsigned *out), ((void)sensor, *out = 35, SUCCESS))
DEVICE(nvmlDeviceGetPowerUsage, (Gpu *gpu, unsigned *milliwatts), (*milliwatts = 60000, SUCCESS))
DEVICE(nvmlDeviceGetPowerManagementLimit, (Gpu *gpu, unsigned *milliwatts), (*milliwatts = 450000, SUCCESS))
DEVICE(nvmlDeviceGetPerformanceState, (Gpu *gpu, unsigned *out), (*out = 8, SUCCESS))
DEVICE(nvmlDeviceGetFanSpeed, (Gpu *gpu, unsigned *out), (*out = 30, SUCCESS))
DEVICE(nvmlDeviceGetDisplayActive, (Gpu *gpu, unsigned *out), (*out = 0, SUCCESS))
DEVICE(nvmlDeviceGetEncoderUtilization, (Gpu *gpu, unsigned *out, unsigned *period), (*out = *period = 0, SUCCESS))
DEVICE(nvmlDeviceGetDecoderUtilization, (Gpu *gpu, unsigned *out, unsigned *period), (*out = *period = 0, SUCCESS))
/* As on a GeForce card under Linux. */
DEVICE(nvmlDeviceGetTotalEccErrors, (Gpu *gpu, int kind, int counter, unsigned long long *out),
       ((void)kind, (void)counter, (void)out, NOT_SUPPORTED))
DEVICE(nvmlDeviceGetDriverModel, (Gpu *gpu, int *current, int *pending), ((void)current, (void)pending, NOT_SUPPORTED))
DEVICE(nvmlDeviceGetMigMode, (Gpu *gpu, unsigned *current, unsigned *pending),
       gpu->mig < 0 ? NOT_SUPPORTED : (*current = *pending = (unsigned)gpu->mig, SUCCESS))

/* A card has room for seven; the place of an instance that was destroyed stays empty: here the first of each card. */
static int mig_device(const Gpu *gpu, unsigned index, Gpu **out) {
    unsigned place = 1;
    for (unsigned i = 0; gpu->mig == 1 && i < profile.instance_count; i++)
        if (profile.instances[i].parent == (int)gpu->index && place++ == index)
            return *out = &profile.instances[i], SUCCESS;
    return NOT_FOUND;
}
DEVICE(nvmlDeviceGetMaxMigDeviceCount, (Gpu *gpu, unsigned *out), (*out = gpu->mig == 1 ? MIG_SLOTS : 0, SUCCESS))
DEVICE(nvmlDeviceGetMigDeviceHandleByIndex, (Gpu *gpu, unsigned index, Gpu **out), mig_device(gpu, index, out))

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory_v2;

/* Version 1 of the call counts memory reserved by the driver as used; version 2 lists it separately. */
static Memory memory(const Gpu *gpu) {
    unsigned long long taken = gpu->used + gpu->reserved;
    return (Memory){gpu->memory, gpu->memory - taken, taken};
}
static Memory_v2 memory_v2(unsigned version, const Gpu *gpu) {
    return (Memory_v2){version, gpu->memory, gpu->reserved, gpu->memory - gpu->used - gpu->reserved, gpu->used};
}
DEVICE(nvmlDeviceGetMemoryInfo, (Gpu *gpu, Memory *out), (*out = memory(gpu), SUCCESS))
DEVICE(nvmlDeviceGetMemoryInfo_v2, (Gpu *gpu, Memory_v2 *out), (*out = memory_v2(out->version, gpu), SUCCESS))

/* The driver has taken no sample of any process. */
DEVICE(nvmlDeviceGetProcessUtilization, (Gpu *gpu, void *out, unsigned *count, unsigned long long since),
       ((void)out, (void)since, *count = 0, NOT_FOUND))

typedef struct { unsigned gpu, memory; } Utilisation;
DEVICE(nvmlDeviceGetUtilizationRates, (Gpu *gpu, Utilisation *out),
       gpu->parent >= 0 ? NOT_SUPPORTED : (*out = (Utilisation){(unsigned)gpu->utilisation, 0}, SUCCESS))

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; } Pci;

static int pci(const Gpu *gpu, Pci *out) {
    memset(out, 0, sizeof *out);
    sscanf(gpu->bus, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.0", out->domain & 0xffff, out->bus & 0xff,
             out->device & 0xff);
    COPY(out->text, gpu->bus);
    out->id = 0x10DE;
    return SUCCESS;
}
DEVICE(nvmlDeviceGetPciInfo_v3, (Gpu *gpu, Pci *out), gpu->parent >= 0 ? NOT_SUPPORTED : pci(gpu, out))

typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } Running;

static int running(const Processes *processes, unsigned *count, Running *out) {
    unsigned room = *count;
    *count = processes->count;
    if (room < processes->count) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < processes->count; i++)
        out[i] = (Running){processes->list[i].pid, processes->list[i].bytes, ~0u, ~0u};
    return SUCCESS;
}
#define RUNNING(function, kind) \
    DEVICE(function, (Gpu *gpu, unsigned *count, Running *out), running(&gpu->kind, count, out))
RUNNING(nvmlDeviceGetComputeRunningProcesses_v2, compute)
RUNNING(nvmlDeviceGetComputeRunningProcesses_v3, compute)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v2, graphics)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v3, graphics)
