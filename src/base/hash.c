/* Hashes (XXH3 for pieces and identities, SHA-256 for files that others check) and counter-based random
 * numbers. */
#include "base/base.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <xxhash.h>

struct am_hash64_state {
    XXH3_state_t *x;
};

uint64_t am_hash64(const void *data, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, n, seed);
}

am_status am_hash64_create(am_hash64_state **out)
{
    am_status st = AM_OK;
    am_hash64_state *s = NULL;
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *s, &s));
    s->x = XXH3_createState(); /* it must be aligned to 64 bytes */
    AM_CHECK(s->x != NULL, AM_ERR_MEMORY, "the host refused memory for a hash state");
    XXH3_64bits_reset(s->x);
    *out = s;
    s = NULL;
done:
    am_hash64_free(&s);
    return st;
}

void am_hash64_update(am_hash64_state *s, const void *data, size_t n)
{
    XXH3_64bits_update(s->x, data, n);
}

uint64_t am_hash64_digest(const am_hash64_state *s)
{
    return XXH3_64bits_digest(s->x);
}

void am_hash64_free(am_hash64_state **s)
{
    if (s == NULL || *s == NULL) return;
    if ((*s)->x != NULL) XXH3_freeState((*s)->x);
    am_free(s);
}

static am_status sha256_start(EVP_MD_CTX **out)
{
    am_status st = AM_OK;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    AM_CHECK(ctx != NULL, AM_ERR_MEMORY, "the host refused memory for a SHA-256 state");
    AM_CHECK(EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1, AM_ERR_ENVIRONMENT,
             "libcrypto offers no SHA-256 (is it restricted on this machine?)");
    *out = ctx;
    ctx = NULL;
done:
    EVP_MD_CTX_free(ctx);
    return st;
}

static am_status sha256_end(EVP_MD_CTX *ctx, char out[65])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char md[EVP_MAX_MD_SIZE];
    if (EVP_DigestFinal_ex(ctx, md, NULL) != 1)
        return am_fail(AM_ERR_INTERNAL, "libcrypto could not finish a SHA-256");
    for (int i = 0; i < 32; i++) {
        out[2 * i] = digits[md[i] >> 4];
        out[2 * i + 1] = digits[md[i] & 15];
    }
    out[64] = '\0';
    return AM_OK;
}

am_status am_sha256_hex(const void *data, size_t n, char out[65])
{
    am_status st = AM_OK;
    EVP_MD_CTX *ctx = NULL;
    AM_TRY(sha256_start(&ctx));
    AM_CHECK(EVP_DigestUpdate(ctx, data, n) == 1, AM_ERR_INTERNAL, "libcrypto could not hash %zu bytes", n);
    AM_TRY(sha256_end(ctx, out));
done:
    EVP_MD_CTX_free(ctx);
    return st;
}

am_status am_sha256_file_hex(const char *path, char out[65])
{
    enum { CHUNK = 1 << 20 };
    am_status st = AM_OK;
    EVP_MD_CTX *ctx = NULL;
    char *chunk = NULL;
    FILE *f = fopen(path, "rb");
    AM_CHECK(f != NULL, AM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    AM_TRY(am_calloc(CHUNK, 1, &chunk));
    AM_TRY(sha256_start(&ctx));
    size_t n;
    while ((n = fread(chunk, 1, CHUNK, f)) > 0)
        AM_CHECK(EVP_DigestUpdate(ctx, chunk, n) == 1, AM_ERR_INTERNAL, "libcrypto could not hash %s", path);
    AM_CHECK(!ferror(f), AM_ERR_IO, "cannot read %s: %s", path, strerror(errno));
    AM_TRY(sha256_end(ctx, out));
done:
    EVP_MD_CTX_free(ctx);
    am_free(&chunk);
    if (f != NULL) fclose(f);
    return st;
}

void am_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    /* multipliers and Weyl increments: Salmon et al. 2011, table 2 and section 4.3 */
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t am_random_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                                 (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t r[4];
    am_philox4x32(counter, key, r);
    return (uint64_t)r[1] << 32 | r[0];
}
