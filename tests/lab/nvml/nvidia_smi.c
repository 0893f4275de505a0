/* The two forms of nvidia-smi that programs read, through whatever libnvidia-ml.so.1 is installed:
 *     nvidia-smi -L
 *     nvidia-smi --query-gpu=index,name,... --format=csv[,noheader][,nounits]
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *library;

static int (*nvml(const char *name))() {
    int (*function)() = (int (*)())dlsym(library, name);
    if (!function) exit(13);
    return function;
}

static int initialise(void) {
    int code = nvml("nvmlInit_v2")();
    if (code == 9)
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
             "NVIDIA driver is installed and running.\n");
    else if (code == 18)
        puts("Failed to initialize NVML: Driver/library version mismatch");
    else if (code)
        printf("Failed to initialize NVML: %s\n", ((char *(*)(int))dlsym(library, "nvmlErrorString"))(code));
    return code;
}

static void print_mib(void *gpu, int part, const char *unit) {
    unsigned long long memory[3] = {0}; /* total, free, used */
    nvml("nvmlDeviceGetMemoryInfo")(gpu, memory);
    printf("%llu%s", memory[part] >> 20, unit);
}

static void print_text(void *gpu, const char *function) {
    char text[96] = "";
    nvml(function)(gpu, text, 96);
    printf("%s", text);
}

static void print_capability(void *gpu) {
    int major = 0, minor = 0;
    nvml("nvmlDeviceGetCudaComputeCapability")(gpu, &major, &minor);
    printf("%d.%d", major, minor);
}

static void print_driver(void) {
    char text[80] = "";
    nvml("nvmlSystemGetDriverVersion")(text, 80);
    printf("%s", text);
}

static void print_utilisation(void *gpu, const char *unit) {
    unsigned rates[2] = {0};
    nvml("nvmlDeviceGetUtilizationRates")(gpu, rates);
    printf("%u%s", rates[0], unit);
}

static void print_field(const char *field, unsigned index, void *gpu, int units) {
    if (!strcmp(field, "index")) printf("%u", index);
    else if (!strcmp(field, "name")) print_text(gpu, "nvmlDeviceGetName");
    else if (!strcmp(field, "uuid")) print_text(gpu, "nvmlDeviceGetUUID");
    else if (!strcmp(field, "driver_version")) print_driver();
    else if (!strcmp(field, "compute_cap")) print_capability(gpu);
    else if (!strcmp(field, "memory.total")) print_mib(gpu, 0, units ? " MiB" : "");
    else if (!strcmp(field, "memory.free")) print_mib(gpu, 1, units ? " MiB" : "");
    else if (!strcmp(field, "memory.used")) print_mib(gpu, 2, units ? " MiB" : "");
    else if (!strcmp(field, "utilization.gpu")) print_utilisation(gpu, units ? " %" : "");
    else printf("[N/A]");
}

static void print_row(const char *query, unsigned index, void *gpu, int units) {
    char fields[256], *rest = fields, *field;
    const char *separator = "";
    snprintf(fields, sizeof fields, "%s", query);
    while ((field = strsep(&rest, ","))) {
        printf("%s", separator);
        print_field(field, index, gpu, units);
        separator = ", ";
    }
    puts("");
}

static void print_listed(unsigned index, void *gpu) {
    printf("GPU %u: ", index);
    print_text(gpu, "nvmlDeviceGetName");
    printf(" (UUID: ");
    print_text(gpu, "nvmlDeviceGetUUID");
    puts(")");
}

static const char *option(int argc, char **argv, const char *name) {
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], name, strlen(name))) return argv[i] + strlen(name);
    return "";
}

int main(int argc, char **argv) {
    const char *query = option(argc, argv, "--query-gpu="), *format = option(argc, argv, "--format=");
    unsigned count = 0;
    if (!(library = dlopen("libnvidia-ml.so.1", RTLD_NOW))) {
        puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA "
             "Display Driver is properly installed and present in your system.");
        return 12;
    }
    int code = initialise();
    if (code) return code;
    nvml("nvmlDeviceGetCount_v2")(&count);
    if (*query && !strstr(format, "noheader")) puts(query);
    for (unsigned index = 0; index < count; index++) {
        void *gpu;
        if (nvml("nvmlDeviceGetHandleByIndex_v2")(index, &gpu)) printf("Unable to determine the device handle for GPU%u\n", index);
        else if (*query) print_row(query, index, gpu, !strstr(format, "nounits"));
        else print_listed(index, gpu);
    }
    return 0;
}
