/* Dictionaries: values to codes 0, 1, 2, … in the order in which they first appear. */
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The first `length` ≤ 8 bytes as a little-endian number; reads no byte from `limit` on. */
static inline uint64_t word(const uint8_t *at, uint32_t length, const uint8_t *limit)
{
    uint64_t value = 0;
    if (limit - at >= 8) {
        memcpy(&value, at, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        value = __builtin_bswap64(value);
#endif
        return length == 8 ? value : value & ((1ULL << 8 * length) - 1);
    }
    for (uint32_t i = 0; i < length; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static inline uint64_t mix(uint64_t x) /* a bijection */
{
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93ULL;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93ULL;
    return x ^ x >> 32;
}

/* Of the value's bytes alone: the same on every machine, and in dictionary.py. Values of equal
 * length up to 8 bytes have different hashes. */
static inline uint64_t hash(const uint8_t *at, uint32_t length, const uint8_t *limit)
{
    uint64_t state = length * 0x9E3779B97F4A7C15ULL;
    for (; length > 8; length -= 8, at += 8) state = mix(state ^ word(at, 8, limit));
    return mix(state ^ word(at, length, limit));
}

typedef struct {
    uint64_t hash;
    uint32_t length;
    uint32_t next; /* code + 1; 0: the place is free */
} slot;

typedef struct {
    slot *slots; /* open addressing; at most 3/4 are taken */
    int bits;    /* log2 of their number */
    int64_t count, ends_room;
    uint64_t *ends; /* (count + 1): value c is bytes[ends[c]] … bytes[ends[c + 1] - 1] */
    uint64_t bytes_room;
    uint8_t *bytes;
} dictionary;

enum { ROWS = 256, ABSENT = -1 }; /* rows looked up at a time: their slots fit the cache */

static slot *new_slots(int bits)
{
    const size_t size = sizeof(slot) << bits, page = 1 << 21;
    if (size < page) return calloc((size_t)1 << bits, sizeof(slot));
    slot *slots = aligned_alloc(page, size);
    if (slots == NULL) return NULL;
    madvise(slots, size, MADV_HUGEPAGE); /* look-ups are random: each would miss small pages too */
    return memset(slots, 0, size);
}

void ctrdist_dictionary_free(dictionary *d)
{
    if (d == NULL) return;
    free(d->slots);
    free(d->ends);
    free(d->bytes);
    free(d);
}

dictionary *ctrdist_dictionary_new(void)
{
    dictionary *d = calloc(1, sizeof(dictionary));
    if (d == NULL) return NULL;
    d->bits = 10;
    d->ends_room = 1 << d->bits;
    d->slots = new_slots(d->bits);
    d->ends = malloc((size_t)d->ends_room * sizeof(uint64_t));
    if (d->slots == NULL || d->ends == NULL) {
        ctrdist_dictionary_free(d);
        return NULL;
    }
    d->ends[0] = 0;
    return d;
}

/* Fibonacci hashing takes all bits into account: values of one partition share some. */
static inline uint64_t place(const dictionary *d, uint64_t hash)
{
    return hash * 0x9E3779B97F4A7C15ULL >> (64 - d->bits);
}

/* Places the values with codes below `count` in a new table. */
static int rebuild(dictionary *d, int bits, int64_t count)
{
    slot *old = d->slots, *slots = new_slots(bits);
    if (slots == NULL) return -1;
    const uint64_t size = 1ULL << d->bits, mask = (1ULL << bits) - 1;
    d->bits = bits;
    d->slots = slots;
    for (uint64_t i = 0; i < size; i++) {
        if (old[i].next == 0 || old[i].next > count) continue;
        uint64_t to = place(d, old[i].hash);
        while (slots[to].next) to = (to + 1) & mask;
        slots[to] = old[i];
    }
    free(old);
    return 0;
}

/* Room for so many further values and bytes; else -1. */
static int reserve(dictionary *d, int64_t values, uint64_t bytes)
{
    if (d->count + values >= INT32_MAX) return -1;
    while ((d->count + values) * 4 > (3LL << d->bits))
        if (rebuild(d, d->bits + 1, d->count)) return -1;
    if (d->count + values + 1 > d->ends_room) {
        const int64_t room = d->ends_room * 3 / 2 + values + 1;
        uint64_t *ends = realloc(d->ends, (size_t)room * sizeof(uint64_t));
        if (ends == NULL) return -1;
        d->ends = ends;
        d->ends_room = room;
    }
    if (d->ends[d->count] + bytes > d->bytes_room) {
        const uint64_t room = d->bytes_room * 3 / 2 + bytes;
        uint8_t *moved = realloc(d->bytes, room);
        if (moved == NULL) return -1;
        d->bytes = moved;
        d->bytes_room = room;
    }
    return 0;
}

static inline int32_t code_of(dictionary *d, uint64_t hash, const uint8_t *at, uint32_t length)
{
    const uint64_t mask = (1ULL << d->bits) - 1;
    uint64_t i = place(d, hash);
    for (; d->slots[i].next; i = (i + 1) & mask) {
        const slot *s = d->slots + i;
        if (s->hash == hash && s->length == length &&
            (length <= 8 || memcmp(d->bytes + d->ends[s->next - 1], at, length) == 0))
            return (int32_t)s->next - 1;
    }
    const int32_t code = (int32_t)d->count++;
    d->slots[i] = (slot){hash, length, (uint32_t)code + 1};
    if (length) memcpy(d->bytes + d->ends[code], at, length);
    d->ends[code + 1] = d->ends[code] + length;
    return code;
}

/* Codes of up to ROWS values; a length of ABSENT gives -1. First all hashes, so that the memory
 * that they lead to is on its way. */
int ctrdist_dictionary_look_up(dictionary *d, const uint8_t *const *at, const int32_t *length,
                               int64_t n, const uint8_t *limit, int32_t *codes)
{
    uint64_t hashes[ROWS], bytes = 0;
    for (int64_t i = 0; i < n; i++) bytes += length[i] > 0 ? (uint64_t)length[i] : 0;
    if (reserve(d, n, bytes)) return -1;
    for (int64_t i = 0; i < n; i++) {
        if (length[i] == ABSENT) continue;
        hashes[i] = hash(at[i], (uint32_t)length[i], limit);
        __builtin_prefetch(d->slots + place(d, hashes[i]));
    }
    for (int64_t i = 0; i < n; i++)
        codes[i] =
            length[i] == ABSENT ? -1 : code_of(d, hashes[i], at[i], (uint32_t)length[i]);
    return 0;
}

/* Codes of n values; value i is bytes[ends[i]] … bytes[ends[i + 1] - 1]. absent: (n,), or NULL.
 * Returns -1 without memory. */
int ctrdist_dictionary_add(dictionary *d, const uint8_t *bytes, const int64_t *ends,
                           const uint8_t *absent, int64_t n, int32_t *codes)
{
    const uint8_t *at[ROWS], *limit = bytes + ends[n];
    int32_t length[ROWS];
    for (int64_t done = 0; done < n; done += ROWS) {
        const int64_t rows = n - done < ROWS ? n - done : ROWS;
        for (int64_t i = 0; i < rows; i++) {
            at[i] = bytes + ends[done + i];
            length[i] = absent && absent[done + i]
                            ? ABSENT
                            : (int32_t)(ends[done + i + 1] - ends[done + i]);
        }
        if (ctrdist_dictionary_look_up(d, at, length, rows, limit, codes + done)) return -1;
    }
    return 0;
}

/* Codes of the decimal texts of n numbers, of the empty text where `empty` says so: (n,), or NULL. */
int ctrdist_dictionary_add_integers(dictionary *d, const int64_t *values, const uint8_t *empty,
                                    int64_t n, int32_t *codes)
{
    enum { DIGITS = 20 };
    uint8_t text[ROWS * DIGITS + 8]; /* 8 more: read at once */
    const uint8_t *at[ROWS];
    int32_t length[ROWS];
    for (int64_t done = 0; done < n; done += ROWS) {
        const int64_t rows = n - done < ROWS ? n - done : ROWS;
        for (int64_t i = 0; i < rows; i++) {
            uint8_t *end = text + (i + 1) * DIGITS, *begin = end;
            const int64_t value = values[done + i];
            uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
            do *--begin = (uint8_t)('0' + rest % 10);
            while (rest /= 10);
            if (value < 0) *--begin = '-';
            at[i] = begin;
            length[i] = empty && empty[done + i] ? 0 : (int32_t)(end - begin);
        }
        if (ctrdist_dictionary_look_up(d, at, length, rows, text + sizeof(text), codes + done)) return -1;
    }
    return 0;
}

/* Forgets the values with codes from `count` on. */
int ctrdist_dictionary_truncate(dictionary *d, int64_t count)
{
    if (count >= d->count) return 0;
    d->count = count;
    return rebuild(d, d->bits, count);
}

int64_t ctrdist_dictionary_count(const dictionary *d) { return d->count; }

int64_t ctrdist_dictionary_bytes(const dictionary *d) { return (int64_t)d->ends[d->count]; }

int64_t ctrdist_dictionary_memory(const dictionary *d)
{
    return (int64_t)((sizeof(slot) << d->bits) + d->bytes_room + sizeof(dictionary)) +
           d->ends_room * (int64_t)sizeof(uint64_t);
}

/* ends: (count + 1); bytes: all values, in the order of codes; hashes: (count); each may be NULL */
void ctrdist_dictionary_read(const dictionary *d, int64_t *ends, uint8_t *bytes, uint64_t *hashes)
{
    if (ends) memcpy(ends, d->ends, (size_t)(d->count + 1) * sizeof(uint64_t));
    if (bytes && d->ends[d->count]) memcpy(bytes, d->bytes, d->ends[d->count]);
    if (hashes)
        for (uint64_t i = 0; i >> d->bits == 0; i++)
            if (d->slots[i].next) hashes[d->slots[i].next - 1] = d->slots[i].hash;
}
