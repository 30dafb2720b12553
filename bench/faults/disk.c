/* A disk that fails on demand: an LD_PRELOAD library, so that writes of C++ libraries go through it.
 *
 *   cc -shared -fPIC -O1 -o disk.so disk.c -ldl
 *   LD_PRELOAD=disk.so MASKFEAT_DISK=rules python ...
 *
 * The file `rules` may change while the process runs; no file or an empty one: all is well. Lines:
 *
 *   prefix /a/directory     files and directories below it are meant, others are left alone
 *   match words             only if the path contains this (may be left out)
 *   ops write,fsync,rename  which operations: open (for writing), write, fsync, rename, mkdir, truncate
 *   errno 28                they fail with this
 *   after 1000000           ... when so many bytes have been written since the rules changed
 *   times 3                 ... so often, then all is well
 *   tear 1                  a write that fails has written its first half
 *   rate 1000000            bytes per second, all threads together
 *   stall 30                the first write takes so many seconds longer
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

static struct {
  char prefix[PATH_MAX], match[256], ops[256];
  int error, tear;
  long after, times;
  double rate, stall;
} rules;
static long written; /* bytes, since the rules changed */
static struct timespec changed;
static ino_t inode;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, slow = PTHREAD_MUTEX_INITIALIZER;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* Reads the rules if their file is another one than last time. The lock is held. */
static void load(void) {
  const char *path = getenv("MASKFEAT_DISK");
  struct stat now;
  if (!path || stat(path, &now)) {
    memset(&rules, 0, sizeof rules);
    inode = 0;
    return;
  }
  if (now.st_ino == inode && now.st_mtim.tv_sec == changed.tv_sec &&
      now.st_mtim.tv_nsec == changed.tv_nsec)
    return;
  inode = now.st_ino;
  changed = now.st_mtim;
  memset(&rules, 0, sizeof rules);
  rules.times = LONG_MAX;
  written = 0;
  FILE *file = fopen(path, "r");
  char key[32], value[PATH_MAX];
  while (file && fscanf(file, "%31s %4095[^\n]", key, value) == 2) {
    if (!strcmp(key, "prefix")) snprintf(rules.prefix, sizeof rules.prefix, "%s", value);
    else if (!strcmp(key, "match")) snprintf(rules.match, sizeof rules.match, "%.255s", value);
    else if (!strcmp(key, "ops")) snprintf(rules.ops, sizeof rules.ops, "%.255s", value);
    else if (!strcmp(key, "errno")) rules.error = atoi(value);
    else if (!strcmp(key, "after")) rules.after = atol(value);
    else if (!strcmp(key, "times")) rules.times = atol(value);
    else if (!strcmp(key, "tear")) rules.tear = atoi(value);
    else if (!strcmp(key, "rate")) rules.rate = atof(value);
    else if (!strcmp(key, "stall")) rules.stall = atof(value);
  }
  if (file) fclose(file);
}

static void sleep_for(double seconds) {
  struct timespec left = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
  while (seconds > 0 && nanosleep(&left, &left) && errno == EINTR) {}
}

static int meant(const char *path) {
  return *rules.prefix && !strncmp(path, rules.prefix, strlen(rules.prefix)) &&
         (!*rules.match || strstr(path, rules.match));
}

static void path_at(int directory, const char *path, char *whole) {
  char link[64], base[PATH_MAX] = "";
  if (*path != '/') {
    snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d",
             directory);
    ssize_t length = readlink(link, base, sizeof base - 2);
    base[length > 0 ? length : 0] = 0;
    strcat(base, "/");
  }
  snprintf(whole, PATH_MAX, "%.2000s%.2000s", base, path);
}

static void path_of(int file, char *whole) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, whole, PATH_MAX - 1);
  whole[length > 0 ? length : 0] = 0;
}

/* Whether an operation on a path fails now; then errno says how. */
static int fails(const char *op, const char *path) {
  int failing = 0;
  pthread_mutex_lock(&lock);
  load();
  if (rules.error && meant(path) && strstr(rules.ops, op) && written >= rules.after &&
      rules.times > 0) {
    rules.times--;
    errno = rules.error;
    failing = 1;
  }
  pthread_mutex_unlock(&lock);
  return failing;
}

/* How many bytes of a write may be written: fewer near the limit, -1 for a failure. */
static ssize_t allowed(int file, size_t size, int *torn) {
  char path[PATH_MAX];
  path_of(file, path);
  double wait = 0;
  ssize_t answer = size;
  *torn = 0;
  pthread_mutex_lock(&lock);
  load();
  if (meant(path)) {
    if (rules.error && strstr(rules.ops, "write") && rules.times > 0) {
      long room = rules.after - written;
      if (room <= 0) {
        rules.times--;
        *torn = rules.tear;
        answer = -1;
        errno = rules.error;
      } else if ((long)size > room) {
        answer = room;
      }
    }
    if (answer > 0) {
      written += answer;
      wait = rules.stall + (rules.rate > 0 ? answer / rules.rate : 0);
      rules.stall = 0;
    }
  }
  pthread_mutex_unlock(&lock);
  if (wait > 0) {
    int kept = errno;
    pthread_mutex_lock(&slow);
    sleep_for(wait);
    pthread_mutex_unlock(&slow);
    errno = kept;
  }
  return answer;
}

static ssize_t write_at(int file, const void *data, size_t size, off_t where) {
  return where < 0 ? REAL(write)(file, data, size) : REAL(pwrite)(file, data, size, where);
}

static ssize_t write_some(int file, const void *data, size_t size, off_t where) {
  int torn;
  ssize_t room = allowed(file, size, &torn);
  if (room >= 0) return write_at(file, data, room, where);
  int error = errno;
  if (torn) write_at(file, data, size / 2, where);
  errno = error;
  return -1;
}

/* Several pieces: the first that is not empty is written, the caller goes on with the others. */
static ssize_t write_first(int file, const struct iovec *pieces, int count, off_t where) {
  for (int i = 0; i < count; i++)
    if (pieces[i].iov_len) return write_some(file, pieces[i].iov_base, pieces[i].iov_len, where);
  return 0;
}

ssize_t write(int file, const void *data, size_t size) { return write_some(file, data, size, -1); }
ssize_t pwrite(int file, const void *data, size_t size, off_t where) {
  return write_some(file, data, size, where);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t where) {
  return write_some(file, data, size, where);
}
ssize_t writev(int file, const struct iovec *pieces, int count) {
  return write_first(file, pieces, count, -1);
}
ssize_t pwritev(int file, const struct iovec *pieces, int count, off_t where) {
  return write_first(file, pieces, count, where);
}
ssize_t pwritev64(int file, const struct iovec *pieces, int count, off64_t where) {
  return write_first(file, pieces, count, where);
}
ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t size, unsigned flags) {
  int torn;
  ssize_t room = allowed(to, size, &torn);
  return room < 0 ? -1 : REAL(copy_file_range)(from, in, to, out, room, flags);
}

static int open_at(int directory, const char *path, int flags, mode_t mode) {
  char whole[PATH_MAX];
  path_at(directory, path, whole);
  if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails("open", whole)) return -1;
  return REAL(openat)(directory, path, flags, mode);
}

#define MODE(flags)                                   \
  mode_t mode = 0;                                    \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {            \
    va_list rest;                                     \
    va_start(rest, flags);                            \
    mode = va_arg(rest, mode_t);                      \
    va_end(rest);                                     \
  }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) {
  MODE(flags) return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
int openat(int directory, const char *path, int flags, ...) {
  MODE(flags) return open_at(directory, path, flags, mode);
}
int openat64(int directory, const char *path, int flags, ...) {
  MODE(flags) return open_at(directory, path, flags | O_LARGEFILE, mode);
}

static int file_fails(const char *op, int file) {
  char path[PATH_MAX];
  path_of(file, path);
  return fails(op, path);
}

int fsync(int file) { return file_fails("fsync", file) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return file_fails("fsync", file) ? -1 : REAL(fdatasync)(file); }
int ftruncate(int file, off_t size) {
  return file_fails("truncate", file) ? -1 : REAL(ftruncate)(file, size);
}
int ftruncate64(int file, off64_t size) {
  return file_fails("truncate", file) ? -1 : REAL(ftruncate64)(file, size);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
  char whole[PATH_MAX];
  path_at(from, old, whole);
  return fails("rename", whole) ? -1 : REAL(renameat2)(from, old, to, new, flags);
}
int renameat(int from, const char *old, int to, const char *new) {
  return renameat2(from, old, to, new, 0);
}
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int mkdirat(int directory, const char *path, mode_t mode) {
  char whole[PATH_MAX];
  path_at(directory, path, whole);
  return fails("mkdir", whole) ? -1 : REAL(mkdirat)(directory, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
