/* Distinct values of a column: sorted into buckets by their hash, counted together over shards,
 * ordered by count and bytes, hashed for their id.
 *
 * A block holds the n entries of one bucket of one shard: n hashes (uint64), n counts (int64),
 * n lengths (uint32), the values' bytes, zeros up to a multiple of 8. */
#define _GNU_SOURCE /* qsort_r */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 256, AHEAD = 12, SMALL = 48 };

static int64_t block_bytes(int64_t n, int64_t bytes) { return (20 * n + bytes + 7) & ~7LL; }

/* memcpy and memcmp would be called for each value; most are short. */
static inline void copy(uint8_t *to, const uint8_t *from, uint64_t length)
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

static inline int equal(const uint8_t *a, const uint8_t *b, uint64_t length)
{
    if (length > 16 || length < 8) return length == 0 || memcmp(a, b, length) == 0;
    uint64_t words[4];
    memcpy(words, a, 8);
    memcpy(words + 1, b, 8);
    memcpy(words + 2, a + length - 8, 8);
    memcpy(words + 3, b + length - 8, 8);
    return words[0] == words[1] && words[2] == words[3];
}

/* Where the blocks of n values begin: entries (257,), by number; places (257,), by byte. */
void ctrdist_measure(const uint64_t *hashes, const uint32_t *lengths, int64_t n, int64_t *entries,
                     int64_t *places)
{
    int64_t numbers[BUCKETS] = {0}, bytes[BUCKETS] = {0};
    for (int64_t i = 0; i < n; i++) {
        numbers[hashes[i] >> 56]++;
        bytes[hashes[i] >> 56] += lengths[i];
    }
    entries[0] = places[0] = 0;
    for (int b = 0; b < BUCKETS; b++) {
        entries[b + 1] = entries[b] + numbers[b];
        places[b + 1] = places[b] + block_bytes(numbers[b], bytes[b]);
    }
}

/* Fills the blocks. values: one after the other; codes: (n,), of each entry its place in the input.
 */
void ctrdist_partition(const uint64_t *hashes, const int64_t *counts, const uint32_t *lengths,
                       const uint8_t *values, int64_t n, const int64_t *entries,
                       const int64_t *places, uint8_t *blocks, int32_t *codes)
{
    int64_t next[BUCKETS] = {0}; /* entry of each bucket */
    uint8_t *text[BUCKETS];      /* where its next value goes */
    for (int b = 0; b < BUCKETS; b++) {
        const int64_t padding = places[b + 1] - places[b] < 8 ? 0 : 8;
        memset(blocks + places[b + 1] - padding, 0, (size_t)padding);
        text[b] = blocks + places[b] + 20 * (entries[b + 1] - entries[b]);
    }
    for (int64_t i = 0; i < n; i++) {
        const int b = (int)(hashes[i] >> 56);
        const int64_t size = entries[b + 1] - entries[b], at = next[b]++;
        uint8_t *block = blocks + places[b];
        ((uint64_t *)block)[at] = hashes[i];
        ((int64_t *)block)[size + at] = counts[i];
        ((uint32_t *)(block + 16 * size))[at] = lengths[i];
        copy(text[b], values, lengths[i]);
        text[b] += lengths[i];
        values += lengths[i];
        codes[entries[b] + at] = (int32_t)i;
    }
}

/* Open addressing. A slot is 0, or has the hash's low half above the value's index plus 1. The slots
 * of a bucket lie together, so that the cache holds what one block needs. */
typedef struct {
    uint64_t *slots;
    int bits, skip; /* 2^bits slots; the first `skip` bits of all hashes are equal */
    int64_t size, room;
    uint64_t *hashes;
    int64_t *counts, *starts;
    uint8_t *bytes;
    int64_t bytes_room;
} Table;

static inline uint64_t home(const Table *t, uint64_t hash)
{
    const int within = t->bits - (8 - t->skip); /* bits for the slots of one bucket */
    const uint64_t bucket = (hash << t->skip >> 1) >> (55 + t->skip);
    return bucket << within | (hash * 0x9e3779b97f4a7c15) >> (64 - within);
}

static int grow_slots(Table *t, int bits)
{
    free(t->slots);
    t->slots = calloc((size_t)1 << bits, sizeof(uint64_t));
    if (t->slots == NULL) return -1;
    t->bits = bits;
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    for (int64_t i = 0; i < t->size; i++) {
        uint64_t at = home(t, t->hashes[i]);
        while (t->slots[at] != 0) at = (at + 1) & mask;
        t->slots[at] = t->hashes[i] << 32 | (uint64_t)(i + 1);
    }
    return 0;
}

static int resize(void **array, int64_t bytes)
{
    void *larger = realloc(*array, (size_t)bytes);
    if (larger == NULL) return -1;
    *array = larger;
    return 0;
}

/* Room for so many further values and bytes. */
static int reserve(Table *t, int64_t values, int64_t bytes)
{
    if (t->size + values > t->room) {
        t->room = (t->size + values) + t->room / 2;
        if (resize((void **)&t->hashes, t->room * 8) || resize((void **)&t->counts, t->room * 8) ||
            resize((void **)&t->starts, (t->room + 1) * 8))
            return -1;
    }
    if (t->starts[t->size] + bytes > t->bytes_room) {
        t->bytes_room = t->starts[t->size] + bytes + t->bytes_room / 2;
        if (resize((void **)&t->bytes, t->bytes_room)) return -1;
    }
    int bits = t->bits;
    while ((t->size + values) * 3 > (int64_t)2 << bits) bits++;
    return bits > t->bits ? grow_slots(t, bits) : 0;
}

void ctrdist_table_free(Table *t)
{
    if (t == NULL) return;
    free(t->slots);
    free(t->hashes);
    free(t->counts);
    free(t->starts);
    free(t->bytes);
    free(t);
}

Table *ctrdist_table_new(int64_t skip)
{
    Table *t = calloc(1, sizeof(Table));
    if (t == NULL) return NULL;
    t->skip = (int)skip;
    t->starts = calloc(1, 8);
    t->bytes = malloc(1);
    if (t->starts == NULL || t->bytes == NULL || grow_slots(t, 10)) {
        ctrdist_table_free(t);
        return NULL;
    }
    return t;
}

static int64_t find_or_add(Table *t, uint64_t hash, const uint8_t *value, uint32_t length)
{
    const uint64_t mask = ((uint64_t)1 << t->bits) - 1;
    for (uint64_t at = home(t, hash);; at = (at + 1) & mask) {
        const uint64_t slot = t->slots[at];
        if (slot == 0) {
            const int64_t index = t->size++;
            t->slots[at] = hash << 32 | (uint64_t)(index + 1);
            t->hashes[index] = hash;
            t->counts[index] = 0;
            copy(t->bytes + t->starts[index], value, length);
            t->starts[index + 1] = t->starts[index] + length;
            return index;
        }
        if (slot >> 32 != (hash & 0xffffffff)) continue;
        const int64_t index = (int64_t)(slot & 0xffffffff) - 1, start = t->starts[index];
        if (t->starts[index + 1] - start == length && equal(t->bytes + start, value, length))
            return index;
    }
}

/* Adds the entries of neighbouring blocks. entries: (buckets + 1,), where each begins, by number.
 * bytes: at least those of the values; out: for each entry the index of its value.
 * Returns 0, or -1 where memory does not suffice. */
int64_t ctrdist_table_add(Table *t, const uint8_t *block, const int64_t *entries, int64_t buckets,
                          int64_t bytes, int32_t *out)
{
    /* At once for all blocks: with room for the first only, their values would crowd its slots. */
    if (reserve(t, entries[buckets] - entries[0], bytes)) return -1;
    for (int64_t b = 0; b < buckets; b++) {
        const int64_t n = entries[b + 1] - entries[b];
        const uint64_t *hashes = (const uint64_t *)block;
        const int64_t *counts = (const int64_t *)(block + 8 * n);
        const uint32_t *lengths = (const uint32_t *)(block + 16 * n);
        const uint8_t *value = block + 20 * n;
        for (int64_t i = 0; i < n; i++) {
            if (i + AHEAD < n) __builtin_prefetch(t->slots + home(t, hashes[i + AHEAD]));
            const int64_t index = find_or_add(t, hashes[i], value, lengths[i]);
            t->counts[index] += counts[i];
            value += lengths[i];
            *out++ = (int32_t)index;
        }
        block += block_bytes(n, value - block - 20 * n);
    }
    return 0;
}

/* The values are complete: what only adding needs is freed. places: (3,), where counts (n,) int64,
 * starts (n + 1,) int64 and bytes lie. Returns n. */
int64_t ctrdist_table_finish(Table *t, int64_t *places)
{
    free(t->slots);
    free(t->hashes);
    t->slots = t->hashes = NULL;
    places[0] = (int64_t)t->counts;
    places[1] = (int64_t)t->starts;
    places[2] = (int64_t)t->bytes;
    return t->size;
}

typedef struct {
    uint64_t key;
    int64_t index;
} Item;

/* By key, equal keys in the order given: one counting pass for each byte that is not always the
 * same. */
static void sort_by_key(Item *items, Item *spare, int64_t n)
{
    if (n < SMALL) {
        for (int64_t i = 1; i < n; i++) {
            const Item item = items[i];
            int64_t at = i;
            for (; at > 0 && items[at - 1].key > item.key; at--) items[at] = items[at - 1];
            items[at] = item;
        }
        return;
    }
    uint64_t differ = 0;
    for (int64_t i = 1; i < n; i++) differ |= items[i].key ^ items[0].key;
    Item *from = items, *to = spare;
    for (int shift = 0; shift < 64; shift += 8) {
        if ((differ >> shift & 0xff) == 0) continue;
        int64_t next[257] = {0};
        for (int64_t i = 0; i < n; i++) next[(from[i].key >> shift & 0xff) + 1]++;
        for (int d = 0; d < 256; d++) next[d + 1] += next[d];
        for (int64_t i = 0; i < n; i++) to[next[from[i].key >> shift & 0xff]++] = from[i];
        Item *const swapped = from;
        from = to;
        to = swapped;
    }
    if (from != items) memcpy(items, from, (size_t)n * sizeof(Item));
}

typedef struct {
    const int64_t *starts;
    const uint8_t *bytes;
} Texts;

static int compare(const void *left, const void *right, void *context)
{
    const Texts *texts = context;
    const int64_t a = ((const Item *)left)->index, b = ((const Item *)right)->index;
    const int64_t la = texts->starts[a + 1] - texts->starts[a];
    const int64_t lb = texts->starts[b + 1] - texts->starts[b];
    const int order = memcmp(texts->bytes + texts->starts[a], texts->bytes + texts->starts[b],
                             (size_t)(la < lb ? la : lb));
    return order != 0 ? order : (la > lb) - (la < lb);
}

/* How many first bytes all texts share. */
static int64_t common(const Item *items, int64_t n, const Texts *texts)
{
    const uint8_t *first = texts->bytes + texts->starts[items[0].index];
    int64_t shared = texts->starts[items[0].index + 1] - texts->starts[items[0].index];
    for (int64_t i = 1; i < n && shared > 0; i++) {
        const int64_t start = texts->starts[items[i].index];
        const int64_t length = texts->starts[items[i].index + 1] - start;
        if (length < shared) shared = length;
        int64_t same = 0;
        while (same < shared && texts->bytes[start + same] == first[same]) same++;
        shared = same;
    }
    return shared;
}

/* By the bytes: first by eight of them after those that all share, then, among equals, by all. */
static void sort_by_text(Item *items, Item *spare, int64_t n, Texts *texts)
{
    const int64_t shared = common(items, n, texts);
    for (int64_t i = 0; i < n; i++) {
        const int64_t start = texts->starts[items[i].index] + shared;
        const int64_t length = texts->starts[items[i].index + 1] - start;
        uint8_t prefix[8] = {0};
        if (length >= 8)
            memcpy(prefix, texts->bytes + start, 8);
        else
            for (int64_t k = 0; k < length; k++) prefix[k] = texts->bytes[start + k];
        uint64_t key;
        memcpy(&key, prefix, 8);
        items[i].key = __builtin_bswap64(key);
    }
    sort_by_key(items, spare, n);
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && items[end].key == items[i].key;) end++;
        if (end - i > 1) qsort_r(items + i, (size_t)(end - i), sizeof(Item), compare, texts);
    }
}

/* The order of values by falling count, equal counts by bytes. chosen: (n,) which values; out: (n,),
 * the same ordered. Returns 0, or -1 where memory does not suffice. */
int64_t ctrdist_order(const int32_t *chosen, int64_t n, const int64_t *counts,
                      const int64_t *starts, const uint8_t *bytes, int32_t *out)
{
    Texts texts = {starts, bytes};
    Item *items = malloc((size_t)(n + 1) * sizeof(Item));
    Item *spare = malloc((size_t)(n + 1) * sizeof(Item));
    if (items != NULL && spare != NULL) {
        for (int64_t i = 0; i < n; i++)
            items[i] = (Item){~(uint64_t)counts[chosen[i]], chosen[i]};
        sort_by_key(items, spare, n);
        for (int64_t i = 0, end; i < n; i = end) {
            for (end = i + 1; end < n && items[end].key == items[i].key;) end++;
            if (end - i > 1) sort_by_text(items + i, spare, end - i, &texts);
        }
        for (int64_t i = 0; i < n; i++) out[i] = (int32_t)items[i].index;
    }
    const int64_t failed = items == NULL || spare == NULL ? -1 : 0;
    free(items);
    free(spare);
    return failed;
}

/* The chosen texts one after the other. starts_out: (n + 1,), filled beforehand. */
void ctrdist_gather(const int32_t *chosen, int64_t n, const int64_t *starts, const uint8_t *bytes,
                    const int64_t *starts_out, uint8_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n) __builtin_prefetch(bytes + starts[chosen[i + AHEAD]]);
        copy(out + starts_out[i], bytes + starts[chosen[i]],
             (uint64_t)(starts_out[i + 1] - starts_out[i]));
    }
}

static inline void sip_round(uint64_t v[4])
{
#define ROTATE(x, by) (((x) << (by)) | ((x) >> (64 - (by))))
    v[0] += v[1], v[1] = ROTATE(v[1], 13) ^ v[0], v[0] = ROTATE(v[0], 32);
    v[2] += v[3], v[3] = ROTATE(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = ROTATE(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = ROTATE(v[1], 17) ^ v[2], v[2] = ROTATE(v[2], 32);
#undef ROTATE
}

/* SipHash-2-4 (Aumasson, Bernstein 2012) of each text, mixed further as pandas.util.hash_array does
 * it. key: (2,); out: (n,). */
void ctrdist_siphash(const int64_t *starts, const uint8_t *bytes, int64_t n, const uint64_t *key,
                     uint64_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                         key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
        const uint8_t *text = bytes + starts[i];
        const int64_t length = starts[i + 1] - starts[i];
        for (int64_t at = 0; at <= length; at += 8) {
            uint64_t word = 0;
            if (at + 8 <= length) {
                memcpy(&word, text + at, 8);
            } else {
                memcpy(&word, text + at, (size_t)(length - at));
                word |= (uint64_t)length << 56;
            }
            v[3] ^= word;
            sip_round(v);
            sip_round(v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        for (int k = 0; k < 4; k++) sip_round(v);
        uint64_t mixed = v[0] ^ v[1] ^ v[2] ^ v[3];
        mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
        mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
        out[i] = mixed ^ mixed >> 31;
    }
}
