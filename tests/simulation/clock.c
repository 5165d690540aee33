/* Preloaded into a server: its wall clock is the number of microseconds in the file CLOCK, which the simulation writes.
   The monotonic clock stays real: the server's own timers use it, and no command does. Valkey would read the wall clock
   only once a millisecond if it counted the processor's ticks, so it does not find /proc/cpuinfo, and does not.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *now;

__attribute__((constructor)) static void open_clock(void)
{
    int file = open(getenv("CLOCK"), O_RDONLY | O_CLOEXEC);
    void *found = mmap(NULL, sizeof *now, PROT_READ, MAP_SHARED, file, 0);
    if (file < 0 || found == MAP_FAILED)
        abort();
    now = found;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
        return syscall(SYS_clock_gettime, clock, time);
    time->tv_sec = *now / 1000000;
    time->tv_nsec = *now % 1000000 * 1000;
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    (void)zone;
    time->tv_sec = *now / 1000000;
    time->tv_usec = *now % 1000000;
    return 0;
}

time_t time(time_t *seconds)
{
    if (seconds)
        *seconds = *now / 1000000;
    return *now / 1000000;
}

FILE *fopen64(const char *restrict path, const char *restrict mode)
{
    FILE *(*open)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen64");
    return strcmp(path, "/proc/cpuinfo") ? open(path, mode) : NULL;
}

FILE *fopen(const char *restrict path, const char *restrict mode) { return fopen64(path, mode); }
