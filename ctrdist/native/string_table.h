/* Strings: reading words of them, hashes, and a table that numbers distinct strings 0, 1, 2, … in
 * the order in which they first appear. Included by scan.c, distinct.c and strings.c,
 * so that the compiler can inline all of it. */
#ifndef CTRDIST_STRING_TABLE_H
#define CTRDIST_STRING_TABLE_H

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

/* A hash of the bytes alone: the same on every machine, and in strings.py. Strings of equal
 * length up to 8 bytes have different hashes. */
static inline uint64_t string_hash(const uint8_t *at, uint32_t length, const uint8_t *limit)
{
    uint64_t state = length * 0x9E3779B97F4A7C15ULL;
    for (; length > 8; length -= 8, at += 8) state = mix(state ^ word(at, 8, limit));
    return mix(state ^ word(at, length, limit));
}

#define ROTATE(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define ROUND                                                                                      \
    v0 += v1, v2 += v3, v1 = ROTATE(v1, 13) ^ v0, v3 = ROTATE(v3, 16) ^ v2, v0 = ROTATE(v0, 32);   \
    v2 += v1, v0 += v3, v1 = ROTATE(v1, 17) ^ v2, v3 = ROTATE(v3, 21) ^ v0, v2 = ROTATE(v2, 32)

/* SipHash-2-4 (Aumasson, Bernstein 2012), mixed further as pandas.util.hash_array does it. */
static inline uint64_t siphash(const uint64_t key[2], const uint8_t *at, uint32_t length,
                               const uint8_t *limit)
{
    uint64_t v0 = key[0] ^ 0x736f6d6570736575ULL, v1 = key[1] ^ 0x646f72616e646f6dULL;
    uint64_t v2 = key[0] ^ 0x6c7967656e657261ULL, v3 = key[1] ^ 0x7465646279746573ULL;
    const uint64_t last = (uint64_t)length << 56;
    for (; length >= 8; length -= 8, at += 8) {
        const uint64_t m = word(at, 8, limit);
        v3 ^= m;
        ROUND;
        ROUND;
        v0 ^= m;
    }
    const uint64_t m = last | word(at, length, limit);
    v3 ^= m;
    ROUND;
    ROUND;
    v0 ^= m;
    v2 ^= 0xff;
    ROUND;
    ROUND;
    ROUND;
    ROUND;
    uint64_t x = v0 ^ v1 ^ v2 ^ v3;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ x >> 27) * 0x94D049BB133111EBULL;
    return x ^ x >> 31;
}

#undef ROUND
#undef ROTATE

/* memcpy and memcmp would be called for each string; most are short. */
static inline void copy_bytes(uint8_t *to, const uint8_t *from, uint64_t length)
{
    if (length > 16 || length == 0) {
        if (length) memcpy(to, from, length);
    } else if (length >= 8) {
        memcpy(to, from, 8);
        memcpy(to + length - 8, from + length - 8, 8);
    } else if (length >= 4) {
        memcpy(to, from, 4);
        memcpy(to + length - 4, from + length - 4, 4);
    } else {
        to[0] = from[0];
        to[length / 2] = from[length / 2];
        to[length - 1] = from[length - 1];
    }
}

static inline int equal_bytes(const uint8_t *a, const uint8_t *b, uint64_t length)
{
    if (length > 16 || length < 8) return length == 0 || memcmp(a, b, length) == 0;
    uint64_t words[4];
    memcpy(words, a, 8);
    memcpy(words + 1, b, 8);
    memcpy(words + 2, a + length - 8, 8);
    memcpy(words + 3, b + length - 8, 8);
    return words[0] == words[1] && words[2] == words[3];
}

/* A slot of 16 bytes answers for strings of up to 8 bytes without another look at memory. Where
 * STRING_COMPACT is defined slots have 8, so that more of them fit the cache, and those of strings
 * whose hashes share their leading bits lie together, for look-ups in the order of these bits. */
#ifdef STRING_COMPACT
typedef uint64_t slot; /* the low half of the hash, then id + 1; 0: the slot is free */
#else
typedef struct {
    uint64_t hash;
    uint32_t length;
    uint32_t next; /* id + 1; 0: the slot is free */
} slot;
#endif

typedef struct {
    slot *slots; /* open addressing; at most 3/4 are taken */
    int bits;    /* log2 of their number */
    int leading, skipped; /* of a hash: bits that tell where its slots lie; equal bits before */
    int64_t count, ends_room;
    uint64_t *ends; /* (count + 1): string i is bytes[ends[i]] … bytes[ends[i + 1] - 1] */
    uint64_t *hashes; /* (count), where slots are compact; else NULL */
    uint64_t bytes_room;
    uint8_t *bytes;
} string_table;

static inline slot *string_slots(int bits)
{
    const size_t size = sizeof(slot) << bits, page = 1 << 21;
    if (size < page) return calloc((size_t)1 << bits, sizeof(slot));
    slot *slots = aligned_alloc(page, size);
    if (slots == NULL) return NULL;
    madvise(slots, size, MADV_HUGEPAGE); /* look-ups are random: each would miss small pages too */
    return memset(slots, 0, size);
}

static inline void string_table_free(string_table *t)
{
    if (t == NULL) return;
    free(t->slots);
    free(t->ends);
    free(t->hashes);
    free(t->bytes);
    free(t);
}

static inline string_table *string_table_new(int leading, int skipped)
{
    string_table *t = calloc(1, sizeof(string_table));
    if (t == NULL) return NULL;
    t->bits = 10;
    t->leading = leading;
    t->skipped = skipped;
    t->ends_room = 1 << t->bits;
    t->slots = string_slots(t->bits);
    t->ends = malloc((size_t)t->ends_room * sizeof(uint64_t));
#ifdef STRING_COMPACT
    t->hashes = malloc((size_t)t->ends_room * sizeof(uint64_t));
    if (t->hashes == NULL) {
        string_table_free(t);
        return NULL;
    }
#endif
    if (t->slots == NULL || t->ends == NULL) {
        string_table_free(t);
        return NULL;
    }
    t->ends[0] = 0;
    return t;
}

/* The first slot to look into. Fibonacci hashing takes all bits into account. */
static inline uint64_t string_home(const string_table *t, uint64_t hash)
{
#ifdef STRING_COMPACT
    const int within = t->bits - t->leading;
    const uint64_t region = hash << t->skipped >> 1 >> (63 - t->leading);
    return region << within | (hash * 0x9E3779B97F4A7C15ULL) >> (64 - within);
#else
    return hash * 0x9E3779B97F4A7C15ULL >> (64 - t->bits);
#endif
}

/* Puts the strings with ids below `count` into 2^bits new slots. */
static inline int string_table_rebuild(string_table *t, int bits, int64_t count)
{
    const uint64_t mask = (1ULL << bits) - 1;
#ifdef STRING_COMPACT
    free(t->slots);
    t->slots = string_slots(bits);
    if (t->slots == NULL) return -1;
    t->bits = bits;
    for (int64_t id = 0; id < count; id++) {
        uint64_t to = string_home(t, t->hashes[id]);
        while (t->slots[to]) to = (to + 1) & mask;
        t->slots[to] = t->hashes[id] << 32 | (uint64_t)(id + 1);
    }
#else
    slot *old = t->slots, *slots = string_slots(bits);
    if (slots == NULL) return -1;
    const uint64_t size = 1ULL << t->bits;
    t->bits = bits;
    t->slots = slots;
    for (uint64_t i = 0; i < size; i++) {
        if (old[i].next == 0 || old[i].next > count) continue;
        uint64_t to = string_home(t, old[i].hash);
        while (slots[to].next) to = (to + 1) & mask;
        slots[to] = old[i];
    }
    free(old);
#endif
    return 0;
}

/* Makes room for so many further strings and bytes. Returns -1 where there is none. */
static inline int string_table_reserve(string_table *t, int64_t strings, uint64_t bytes)
{
    if (t->count + strings >= INT32_MAX) return -1;
    int bits = t->bits;
    while ((t->count + strings) * 4 > (3LL << bits)) bits++;
    if (bits > t->bits && string_table_rebuild(t, bits, t->count)) return -1;
    if (t->count + strings + 1 > t->ends_room) {
        const int64_t room = t->ends_room * 3 / 2 + strings + 1;
        uint64_t *ends = realloc(t->ends, (size_t)room * sizeof(uint64_t));
        if (ends == NULL) return -1;
        t->ends = ends;
#ifdef STRING_COMPACT
        uint64_t *hashes = realloc(t->hashes, (size_t)room * sizeof(uint64_t));
        if (hashes == NULL) return -1;
        t->hashes = hashes;
#endif
        t->ends_room = room;
    }
    if (t->ends[t->count] + bytes > t->bytes_room) {
        const uint64_t room = t->bytes_room * 3 / 2 + bytes;
        uint8_t *moved = realloc(t->bytes, room);
        if (moved == NULL) return -1;
        t->bytes = moved;
        t->bytes_room = room;
    }
    return 0;
}

/* The id of a string, which is added if it is new; there is room for it. Slots that are not compact
 * need the hashes of string_hash, which tell short strings apart. */
static inline int32_t string_table_add(string_table *t, uint64_t hash, const uint8_t *at,
                                       uint32_t length)
{
    const uint64_t mask = (1ULL << t->bits) - 1;
    uint64_t i = string_home(t, hash);
#ifdef STRING_COMPACT
    for (; t->slots[i]; i = (i + 1) & mask) {
        if (t->slots[i] >> 32 != (hash & 0xffffffff)) continue;
        const int64_t id = (int64_t)(t->slots[i] & 0xffffffff) - 1;
        const uint64_t start = t->ends[id];
        if (t->ends[id + 1] - start == length && equal_bytes(t->bytes + start, at, length))
            return (int32_t)id;
    }
#else
    for (; t->slots[i].next; i = (i + 1) & mask) {
        const slot *s = t->slots + i;
        if (s->hash == hash && s->length == length &&
            (length <= 8 || memcmp(t->bytes + t->ends[s->next - 1], at, length) == 0))
            return (int32_t)s->next - 1;
    }
#endif
    const int32_t id = (int32_t)t->count++;
#ifdef STRING_COMPACT
    t->slots[i] = hash << 32 | (uint64_t)(id + 1);
    t->hashes[id] = hash;
#else
    t->slots[i] = (slot){hash, length, (uint32_t)id + 1};
#endif
    copy_bytes(t->bytes + t->ends[id], at, length);
    t->ends[id + 1] = t->ends[id] + length;
    return id;
}

enum { ROWS = 256, ABSENT = -1 }; /* strings looked up at a time: their slots fit the cache */

/* Ids of up to ROWS strings; a length of ABSENT gives -1. First all hashes, so that the memory that
 * they lead to is on its way. Returns -1 without memory. */
static inline int string_table_look_up(string_table *t, const uint8_t *const *at,
                                       const int32_t *length, int64_t n, const uint8_t *limit,
                                       int32_t *ids)
{
    uint64_t hashes[ROWS], bytes = 0;
    for (int64_t i = 0; i < n; i++) bytes += length[i] > 0 ? (uint64_t)length[i] : 0;
    if (string_table_reserve(t, n, bytes)) return -1;
    for (int64_t i = 0; i < n; i++) {
        if (length[i] == ABSENT) continue;
        hashes[i] = string_hash(at[i], (uint32_t)length[i], limit);
        __builtin_prefetch(t->slots + string_home(t, hashes[i]));
    }
    for (int64_t i = 0; i < n; i++)
        ids[i] = length[i] == ABSENT
                     ? -1
                     : string_table_add(t, hashes[i], at[i], (uint32_t)length[i]);
    return 0;
}

#endif
