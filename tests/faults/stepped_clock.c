/* A wall clock that a test sets forward and back, for all processes that load this library before others (LD_PRELOAD).
 *
 * The file named by CLOCK_STEP_FILE holds one int64 in the machine's byte order: nanoseconds to add to the wall clock.
 * Monotonic clocks stay as they are. A wait until a time of the wall clock follows each step, as it does in the kernel:
 * after a step of an hour back, the wait lasts an hour longer. A wait until a time of a monotonic clock is told apart by
 * its size: the seconds since the machine started are far fewer than the seconds since 1970.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define SLICE 20000000LL /* ns between two looks of a wait at the clock */
#define LEAST_WALL 1000000000LL /* seconds: 2001 */

typedef int (*get_clock)(clockid_t, struct timespec *);
typedef int (*timed_wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
typedef int (*timed_wait_of_c11)(cnd_t *, mtx_t *, const struct timespec *);

static const volatile int64_t no_step = 0;
static const volatile int64_t *step = &no_step;
static get_clock real_clock;
static timed_wait real_wait;
static timed_wait_of_c11 real_wait_of_c11;

__attribute__((constructor)) static void begin(void) {
    const char *versions[] = {"GLIBC_2.3.2", "GLIBC_2.17"};
    const char *path = getenv("CLOCK_STEP_FILE");
    real_clock = (get_clock)dlsym(RTLD_NEXT, "clock_gettime");
    for (int i = 0; i < 2 && !real_wait; i++)
        real_wait = (timed_wait)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", versions[i]);
    real_wait_of_c11 = (timed_wait_of_c11)dlsym(RTLD_NEXT, "cnd_timedwait");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *found = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
        if (found != MAP_FAILED)
            step = found;
        close(file);
    }
}

static int64_t real_now(void) {
    struct timespec now;
    if (!real_clock)
        begin();
    real_clock(CLOCK_REALTIME, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static struct timespec as_timespec(int64_t ns) {
    return (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock)
        begin();
    int result = real_clock(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *now = as_timespec(now->tv_sec * SECOND + now->tv_nsec + *step);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    int64_t ns = real_now() + *step;
    now->tv_sec = ns / SECOND;
    now->tv_usec = ns % SECOND / 1000;
    return 0;
}

time_t time(time_t *now) {
    time_t seconds = (real_now() + *step) / SECOND;
    if (now)
        *now = seconds;
    return seconds;
}

/* Set the end of the next slice of a wait, in real time; return whether the slice ends the wait. */
static int next_slice(const struct timespec *until, struct timespec *slice) {
    int64_t now = real_now(), left = until->tv_sec * SECOND + until->tv_nsec - (now + *step);
    *slice = as_timespec(now + (left < SLICE ? (left > 0 ? left : 0) : SLICE));
    return left <= SLICE;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    struct timespec slice;
    if (!real_wait)
        begin();
    if (until->tv_sec < LEAST_WALL)
        return real_wait(condition, mutex, until);
    for (;;) {
        int is_last = next_slice(until, &slice), result = real_wait(condition, mutex, &slice);
        if (result != ETIMEDOUT || is_last)
            return result;
    }
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    struct timespec slice;
    if (!real_wait_of_c11)
        begin();
    for (;;) {
        int is_last = next_slice(until, &slice), result = real_wait_of_c11(condition, mutex, &slice);
        if (result != thrd_timedout || is_last)
            return result;
    }
}
