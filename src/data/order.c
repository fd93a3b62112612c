/* The keyed permutation behind the order of data: balanced halves are not needed, so a domain of b bits is
 * cut into two parts of b/2 and b − b/2 bits that take turns; images beyond n are walked along their cycle
 * until one lies inside. The domain is below 2n, so a walk takes less than two steps on average. */
#include "data/data.h"

#define ROUNDS     6
#define STREAM_TAG UINT64_C(0x6461746100000000) /* "data": apart from other users of the seed */

typedef struct feistel {
    uint64_t seed, stream;
    int low_bits, high_bits; /* low_bits >= high_bits */
} feistel;

static uint64_t apply(const feistel *f, uint64_t x)
{
    uint64_t low_mask = (UINT64_C(1) << f->low_bits) - 1, high_mask = (UINT64_C(1) << f->high_bits) - 1;
    uint64_t low = x & low_mask, high = x >> f->low_bits;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        /* each half is XORed with a function of the other one: a bijection whatever that function is */
        if (round % 2 == 0)
            high ^= am_random_u64(f->seed, STREAM_TAG ^ (f->stream * ROUNDS + round), low) & high_mask;
        else
            low ^= am_random_u64(f->seed, STREAM_TAG ^ (f->stream * ROUNDS + round), high) & low_mask;
    }
    return high << f->low_bits | low;
}

int64_t am_permute(uint64_t seed, uint64_t stream, int64_t n, int64_t i)
{
    if (n < 2) return i;
    int bits = 64 - __builtin_clzll((uint64_t)n - 1);
    feistel f = {seed, stream, bits - bits / 2, bits / 2};
    uint64_t x = (uint64_t)i;
    do {
        x = apply(&f, x);
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}
