/* Answers some calls of the C library in its own way, as the file of faults tells.
 *
 * With no fault on, a call costs one load from shared memory and one jump more. Nothing here allocates,
 * locks or logs, and nothing about descriptors is remembered: what a descriptor is for is asked of the kernel
 * each time a fault is on, so that no close, dup or fork can make it wrong.
 *
 * For 64-bit Linux with glibc.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"

_Static_assert(sizeof(off_t) == 8, "files of any size");

#define SECOND 1000000000LL
#define SLICE (SECOND / 50) /* between two looks whether a delay is still wanted */
#define HERE (-1)           /* the place in a file where the descriptor is */

static struct control idle;
static struct control *shared = &idle;

struct fault {
    int slot;
    uint64_t version, action, calls, files, threshold;
    int64_t error, nanoseconds, pid;
};

/* What is to happen to one call. */
struct verdict {
    int error;
    bool is_short, is_full;
};

/* The functions behind these. */

#define FUNCTIONS(X) \
    X(int, openat, (int, const char *, int, ...)) \
    X(ssize_t, read, (int, void *, size_t)) \
    X(ssize_t, pread, (int, void *, size_t, off_t)) \
    X(ssize_t, write, (int, const void *, size_t)) \
    X(ssize_t, pwrite, (int, const void *, size_t, off_t)) \
    X(ssize_t, writev, (int, const struct iovec *, int)) \
    X(int, fsync, (int)) \
    X(int, fdatasync, (int)) \
    X(int, ftruncate, (int, off_t)) \
    X(int, unlink, (const char *)) \
    X(int, unlinkat, (int, const char *, int)) \
    X(void *, mmap, (void *, size_t, int, int, int, off_t)) \
    X(int, fcntl, (int, int, ...)) \
    X(int, clock_gettime, (clockid_t, struct timespec *)) \
    X(int, gettimeofday, (struct timeval *, void *)) \
    X(time_t, time, (time_t *)) \
    X(int, pthread_create, (pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))

#define DECLARE(type, name, parameters) static type(*real_##name) parameters;
FUNCTIONS(DECLARE)

static void find_functions(void)
{
#define FIND(type, name, parameters) *(void **)&real_##name = dlsym(RTLD_NEXT, #name);
    FUNCTIONS(FIND)
}

/* A function that libraries call which are initialised before this one. */
#define REAL(name) (__builtin_expect(real_##name == NULL, 0) ? (find_functions(), real_##name) : real_##name)

/* The file of faults. */

static void give_up(const char *reason)
{
    static const char start[] = "faulty.so: the file named by " CONTROL_VARIABLE " ";
    struct iovec words[] = {
        {(void *)start, sizeof start - 1}, {(void *)reason, strlen(reason)}, {(void *)"\n", 1}};
    if (REAL(writev)(STDERR_FILENO, words, 3)) {
    }
    _exit(127); /* a run that only seems to have faults would prove nothing */
}

__attribute__((constructor)) static void start(void)
{
    find_functions();
    const char *path = getenv(CONTROL_VARIABLE);
    if (path == NULL || *path == '\0')
        return;
    int fd = real_openat(AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        give_up("cannot be opened");
    struct stat status;
    if (fstat(fd, &status) != 0 || (size_t)status.st_size < sizeof(struct control))
        give_up("is too small");
    void *memory = real_mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED)
        give_up("cannot be mapped");
    struct control *control = memory;
    if (control->magic != CONTROL_MAGIC || control->size != sizeof(struct control))
        give_up("is of another version");
    shared = control;
}

static inline bool is_armed(uint64_t calls)
{
    return __builtin_expect((atomic_load_explicit(&shared->armed, memory_order_acquire) & calls) != 0, 0);
}

/* False for a free slot, and for one that is changed at this moment. */
static bool read_slot(int number, struct fault *fault)
{
    struct slot *slot = &shared->slots[number];
    fault->slot = number;
    fault->version = atomic_load_explicit(&slot->version, memory_order_acquire);
    fault->action = atomic_load_explicit(&slot->action, memory_order_relaxed);
    fault->calls = atomic_load_explicit(&slot->calls, memory_order_relaxed);
    fault->files = atomic_load_explicit(&slot->files, memory_order_relaxed);
    fault->threshold = atomic_load_explicit(&slot->threshold, memory_order_relaxed);
    fault->error = atomic_load_explicit(&slot->error, memory_order_relaxed);
    fault->nanoseconds = atomic_load_explicit(&slot->nanoseconds, memory_order_relaxed);
    fault->pid = atomic_load_explicit(&slot->pid, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    return fault->action != ACTION_NONE && fault->version % 2 == 0
        && fault->version == atomic_load_explicit(&slot->version, memory_order_relaxed);
}

/* Whether the dice say so: the number of the call decides, counted in this process since the fault began. */
static bool is_drawn(const struct fault *fault)
{
    static struct {
        _Atomic uint64_t version, count;
    } draws[SLOTS];

    if (fault->threshold > UINT32_MAX)
        return true;
    uint64_t before = draws[fault->slot].version;
    if (before != fault->version
        && atomic_compare_exchange_strong(&draws[fault->slot].version, &before, fault->version))
        draws[fault->slot].count = 0;
    uint64_t value = shared->seed + (draws[fault->slot].count++ + 1) * UINT64_C(0x9E3779B97F4A7C15);
    value = (value ^ value >> 30) * UINT64_C(0xBF58476D1CE4E5B9); /* splitmix64 */
    value = (value ^ value >> 27) * UINT64_C(0x94D049BB133111EB);
    return (value ^ value >> 31) >> 32 < fault->threshold;
}

static bool is_left(const struct fault *fault)
{
    _Atomic int64_t *remaining = &shared->slots[fault->slot].remaining;
    int64_t count = *remaining;
    while (count > 0)
        if (atomic_compare_exchange_weak(remaining, &count, count - 1))
            return true;
    return count < 0;
}

static void note(const struct fault *fault, uint64_t call)
{
    shared->slots[fault->slot].hits++;
    shared->hits[__builtin_ctzll(call)]++;
}

static void delay(const struct fault *fault)
{
    struct timespec now;
    REAL(clock_gettime)(CLOCK_MONOTONIC, &now);
    int64_t end = now.tv_sec * SECOND + now.tv_nsec + fault->nanoseconds;
    while (shared->slots[fault->slot].version == fault->version) {
        REAL(clock_gettime)(CLOCK_MONOTONIC, &now);
        int64_t left = end - (now.tv_sec * SECOND + now.tv_nsec);
        if (left <= 0)
            break;
        struct timespec slice = {0, left < SLICE ? left : SLICE};
        clock_nanosleep(CLOCK_MONOTONIC, 0, &slice, NULL);
    }
}

/* Delay a call, and tell what else is to happen to it.
 *
 * file: of which kind it is; 0 when it is none of the store's.
 * is_divisible: half of it can be done.
 * grows: it needs space on the disk.
 */
static struct verdict judge(uint64_t call, uint64_t file, bool is_divisible, bool grows)
{
    struct verdict verdict = {0};
    if (file == 0)
        return verdict;
    for (int number = 0; number < SLOTS; number++) {
        struct fault fault;
        if (!read_slot(number, &fault) || !(fault.calls & call) || !(fault.files & file))
            continue;
        if (fault.pid != 0 && fault.pid != getpid())
            continue;
        if ((fault.action == ACTION_SHORT && !is_divisible) || (fault.action == ACTION_FULL && !grows))
            continue;
        if (fault.action != ACTION_SLOW && verdict.error != 0)
            continue;
        if (!is_drawn(&fault) || !is_left(&fault))
            continue;
        note(&fault, call);
        if (fault.action == ACTION_SLOW)
            delay(&fault);
        else if (fault.action == ACTION_FAIL)
            verdict.error = (int)fault.error;
        else if (fault.action == ACTION_SHORT)
            verdict.is_short = true;
        else if (fault.action == ACTION_FULL)
            verdict.is_full = true;
    }
    return verdict;
}

/* Which file of the store it is. */

static bool ends(const char *text, size_t length, const char *end)
{
    size_t size = strlen(end);
    return length >= size && memcmp(text + length - size, end, size) == 0;
}

static uint64_t kind_of(const char *path, size_t length)
{
    static const char deleted[] = " (deleted)";
    size_t folder = shared->folder_length;
    if (length < folder || memcmp(path, shared->folder, folder) != 0)
        return 0;
    if (length == folder)
        return FILE_OTHER;
    if (path[folder] != '/')
        return 0;
    if (ends(path, length, deleted))
        length -= sizeof deleted - 1;
    if (ends(path, length, "-wal"))
        return FILE_WAL;
    if (ends(path, length, "-shm"))
        return FILE_SHM;
    if (ends(path, length, "-lock"))
        return FILE_LOCK;
    if (ends(path, length, ".db") || ends(path, length, ".sqlite") || ends(path, length, ".sqlite3"))
        return FILE_DATABASE;
    return FILE_OTHER;
}

/* The path of a descriptor, without a zero at its end; 0 when it has none. */
static size_t path_of(int fd, char path[PATH_MAX])
{
    char name[32] = "/proc/self/fd/";
    char *place = name + sizeof name - 1;
    size_t start = strlen(name);
    if (fd < 0)
        return 0;
    *place = '\0';
    do
        *--place = (char)('0' + fd % 10);
    while ((fd /= 10) > 0);
    memmove(name + start, place, strlen(place) + 1);
    ssize_t length = readlink(name, path, PATH_MAX);
    return length > 0 ? (size_t)length : 0;
}

static uint64_t kind_of_descriptor(int fd)
{
    char path[PATH_MAX];
    int before = errno;
    size_t length = path_of(fd, path);
    errno = before;
    return length > 0 ? kind_of(path, length) : 0;
}

/* O_PATH: its close lets go of no lock, as the close of an opened file does for all of its process. */
static int look_up(int at, const char *path, int flags)
{
    return (int)syscall(SYS_openat, at, path, O_PATH | O_CLOEXEC | flags);
}

static uint64_t kind_at_once(int at, const char *name, int flags)
{
    char path[PATH_MAX];
    size_t length = 0;
    int fd = look_up(at, name, flags & O_NOFOLLOW);
    if (fd >= 0) {
        length = path_of(fd, path);
        close(fd);
        return length > 0 ? kind_of(path, length) : 0;
    }
    if (errno != ENOENT)
        return 0;
    size_t size = strlen(name);
    size_t base = size;
    while (base > 0 && name[base - 1] != '/')
        base--;
    if (base >= sizeof path)
        return 0;
    memcpy(path, name, base); /* the folder of what is to be made, with the slash at its end */
    memcpy(path + base, ".", 2);
    fd = look_up(at, path, O_DIRECTORY);
    if (fd < 0)
        return 0;
    length = path_of(fd, path);
    close(fd);
    if (length == 0 || length + 1 + size - base > sizeof path)
        return 0;
    path[length++] = '/';
    memcpy(path + length, name + base, size - base);
    return kind_of(path, length + size - base);
}

static uint64_t kind_of_name(int at, const char *name, int flags)
{
    int before = errno;
    uint64_t kind = kind_at_once(at, name, flags);
    errno = before;
    return kind;
}

static int failed(int error)
{
    errno = error;
    return -1;
}

/* Files are opened. */

static bool needs_mode(int flags)
{
    return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
}

static int may_open(int at, const char *path, int flags)
{
    int before = errno;
    bool is_new = (flags & O_TMPFILE) == O_TMPFILE || ((flags & O_CREAT) && faccessat(at, path, F_OK, 0) != 0);
    errno = before;
    struct verdict verdict = judge(CALL_OPEN, kind_of_name(at, path, flags), false, is_new);
    return verdict.error == 0 && verdict.is_full ? ENOSPC : verdict.error;
}

static int open_at(int at, const char *path, int flags, mode_t mode)
{
    if (is_armed(CALL_OPEN)) {
        int error = may_open(at, path, flags);
        if (error != 0)
            return failed(error);
    }
    return REAL(openat)(at, path, flags, mode);
}

#define MODE(last) \
    mode_t mode = 0; \
    if (needs_mode(flags)) { \
        va_list rest; \
        va_start(rest, last); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...)
{
    MODE(flags)
    return open_at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE(flags)
    return open_at(AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...)
{
    MODE(flags)
    return open_at(at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...)
{
    MODE(flags)
    return open_at(at, path, flags, mode);
}

int creat(const char *path, mode_t mode)
{
    return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode)
{
    return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

/* What a compiler makes of the above with _FORTIFY_SOURCE. */

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int at, const char *path, int flags);
int __openat64_2(int at, const char *path, int flags);

int __open_2(const char *path, int flags)
{
    return open_at(AT_FDCWD, path, flags, 0);
}

int __open64_2(const char *path, int flags)
{
    return open_at(AT_FDCWD, path, flags, 0);
}

int __openat_2(int at, const char *path, int flags)
{
    return open_at(at, path, flags, 0);
}

int __openat64_2(int at, const char *path, int flags)
{
    return open_at(at, path, flags, 0);
}

/* Bytes are read. */

static int limit_read(int fd, size_t *count)
{
    struct verdict verdict = judge(CALL_READ, kind_of_descriptor(fd), *count > 1, false);
    if (verdict.is_short)
        *count /= 2;
    return verdict.error;
}

ssize_t read(int fd, void *bytes, size_t count)
{
    int error = is_armed(CALL_READ) ? limit_read(fd, &count) : 0;
    return error != 0 ? failed(error) : REAL(read)(fd, bytes, count);
}

ssize_t pread(int fd, void *bytes, size_t count, off_t place)
{
    int error = is_armed(CALL_READ) ? limit_read(fd, &count) : 0;
    return error != 0 ? failed(error) : REAL(pread)(fd, bytes, count, place);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t place)
{
    return pread(fd, bytes, count, place);
}

/* Bytes are written. */

/* How many of them take the place of bytes that the file has. */
static size_t room_for(int fd, size_t count, off_t place)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return count;
    if (place == HERE) {
        int flags = REAL(fcntl)(fd, F_GETFL);
        place = flags >= 0 && (flags & O_APPEND) ? status.st_size : lseek(fd, 0, SEEK_CUR);
    }
    off_t room = status.st_size > place ? status.st_size - place : 0;
    return (size_t)room < count ? (size_t)room : count;
}

static int limit_write(int fd, size_t *count, off_t place)
{
    uint64_t kind = kind_of_descriptor(fd);
    if (kind == 0)
        return 0;
    int before = errno;
    size_t room = room_for(fd, *count, place);
    errno = before;
    struct verdict verdict = judge(CALL_WRITE, kind, *count > 1, room < *count);
    if (verdict.error != 0)
        return verdict.error;
    if (verdict.is_full && room == 0)
        return ENOSPC;
    if (verdict.is_full)
        *count = room;
    if (verdict.is_short && *count > 1)
        *count /= 2;
    return 0;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    int error = is_armed(CALL_WRITE) ? limit_write(fd, &count, HERE) : 0;
    return error != 0 ? failed(error) : REAL(write)(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t place)
{
    int error = is_armed(CALL_WRITE) ? limit_write(fd, &count, place) : 0;
    return error != 0 ? failed(error) : REAL(pwrite)(fd, bytes, count, place);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t place)
{
    return pwrite(fd, bytes, count, place);
}

ssize_t writev(int fd, const struct iovec *parts, int number)
{
    struct iovec fewer[IOV_MAX];
    if (!is_armed(CALL_WRITE) || number <= 0 || number > IOV_MAX)
        return REAL(writev)(fd, parts, number);
    size_t count = 0;
    for (int i = 0; i < number; i++)
        count += parts[i].iov_len;
    size_t left = count;
    int error = limit_write(fd, &left, HERE);
    if (error != 0)
        return failed(error);
    if (left == count)
        return REAL(writev)(fd, parts, number);
    int some = 0;
    for (; left > 0; some++) {
        fewer[some] = parts[some];
        if (fewer[some].iov_len > left)
            fewer[some].iov_len = left;
        left -= fewer[some].iov_len;
    }
    return REAL(writev)(fd, fewer, some);
}

/* Files are made durable, cut, removed. */

static int may_sync(int fd)
{
    return is_armed(CALL_SYNC) ? judge(CALL_SYNC, kind_of_descriptor(fd), false, false).error : 0;
}

int fsync(int fd)
{
    int error = may_sync(fd);
    return error != 0 ? failed(error) : REAL(fsync)(fd);
}

int fdatasync(int fd)
{
    int error = may_sync(fd);
    return error != 0 ? failed(error) : REAL(fdatasync)(fd);
}

int ftruncate(int fd, off_t length)
{
    if (is_armed(CALL_TRUNCATE)) {
        struct stat status;
        int before = errno;
        bool grows = fstat(fd, &status) == 0 && length > status.st_size;
        errno = before;
        struct verdict verdict = judge(CALL_TRUNCATE, kind_of_descriptor(fd), false, grows);
        if (verdict.error != 0 || verdict.is_full)
            return failed(verdict.error != 0 ? verdict.error : ENOSPC);
    }
    return REAL(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length)
{
    return ftruncate(fd, length);
}

int unlink(const char *path)
{
    if (is_armed(CALL_UNLINK)) {
        int error = judge(CALL_UNLINK, kind_of_name(AT_FDCWD, path, O_NOFOLLOW), false, false).error;
        if (error != 0)
            return failed(error);
    }
    return REAL(unlink)(path);
}

int unlinkat(int at, const char *path, int flags)
{
    if (is_armed(CALL_UNLINK) && !(flags & AT_REMOVEDIR)) {
        int error = judge(CALL_UNLINK, kind_of_name(at, path, O_NOFOLLOW), false, false).error;
        if (error != 0)
            return failed(error);
    }
    return REAL(unlinkat)(at, path, flags);
}

/* Files are mapped and locked. */

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t place)
{
    if (is_armed(CALL_MAP) && fd >= 0 && !(flags & MAP_ANONYMOUS)) {
        int error = judge(CALL_MAP, kind_of_descriptor(fd), false, false).error;
        if (error != 0) {
            errno = error;
            return MAP_FAILED;
        }
    }
    return REAL(mmap)(address, length, protection, flags, fd, place);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t place)
{
    return mmap(address, length, protection, flags, fd, place);
}

static bool is_about_locks(int command)
{
    return command == F_SETLK || command == F_SETLKW || command == F_GETLK || command == F_OFD_SETLK
        || command == F_OFD_SETLKW || command == F_OFD_GETLK;
}

static int may_lock(int fd, int command, const struct flock *lock)
{
    bool asks = command == F_GETLK || command == F_OFD_GETLK;
    uint64_t call = !asks && lock->l_type == F_UNLCK ? CALL_UNLOCK : CALL_LOCK;
    return is_armed(call) ? judge(call, kind_of_descriptor(fd), false, false).error : 0;
}

/* Whatever it is, a whole word is passed on; the kernel takes from it what the command needs. */
#define WORD(last) \
    va_list rest; \
    va_start(rest, last); \
    void *word = va_arg(rest, void *); \
    va_end(rest);

static int control_file(int fd, int command, void *word)
{
    if (is_armed(CALL_LOCK | CALL_UNLOCK) && is_about_locks(command)) {
        int error = may_lock(fd, command, word);
        if (error != 0)
            return failed(error);
    }
    return REAL(fcntl)(fd, command, word);
}

int fcntl(int fd, int command, ...)
{
    WORD(command)
    return control_file(fd, command, word);
}

int fcntl64(int fd, int command, ...)
{
    WORD(command)
    return control_file(fd, command, word);
}

/* The time of day, and threads. */

static int64_t ahead(void)
{
    int64_t nanoseconds = 0;
    for (int number = 0; number < SLOTS; number++) {
        struct fault fault;
        if (read_slot(number, &fault) && fault.action == ACTION_JUMP
            && (fault.pid == 0 || fault.pid == getpid())) {
            nanoseconds += fault.nanoseconds;
            note(&fault, CALL_CLOCK);
        }
    }
    return nanoseconds;
}

static void move(struct timespec *time)
{
    int64_t moved = time->tv_sec * SECOND + time->tv_nsec + ahead();
    time->tv_sec = moved / SECOND - (moved % SECOND < 0);
    time->tv_nsec = moved % SECOND + (moved % SECOND < 0 ? SECOND : 0);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = REAL(clock_gettime)(clock, time);
    if (is_armed(CALL_CLOCK) && result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        move(time);
    return result;
}

int gettimeofday(struct timeval *time, void *zone)
{
    int result = REAL(gettimeofday)(time, zone);
    if (is_armed(CALL_CLOCK) && result == 0) {
        struct timespec now = {time->tv_sec, time->tv_usec * 1000};
        move(&now);
        time->tv_sec = now.tv_sec;
        time->tv_usec = now.tv_nsec / 1000;
    }
    return result;
}

time_t time(time_t *result)
{
    if (!is_armed(CALL_CLOCK))
        return REAL(time)(result);
    struct timespec now;
    REAL(clock_gettime)(CLOCK_REALTIME, &now);
    move(&now);
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    int error = is_armed(CALL_THREAD) ? judge(CALL_THREAD, FILE_ANY, false, false).error : 0;
    return error != 0 ? error : REAL(pthread_create)(thread, attributes, run, argument);
}
