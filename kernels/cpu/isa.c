/* isa: which instruction set the kernels use: the best of this machine, lowered by AM_ISA in the environment.
 */
#include "kernels_cpu.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[AM_ISA_COUNT] = {"portable", "avx2", "avx512", "avx512_bf16"};

const char *am_isa_name(am_isa isa)
{
    return isa < AM_ISA_COUNT ? names[isa] : "unknown";
}

static am_isa machine_isa(void)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
        return AM_ISA_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return AM_ISA_AVX2;
    return __builtin_cpu_supports("avx512bf16") ? AM_ISA_AVX512_BF16 : AM_ISA_AVX512;
}

/* AM_ISA_COUNT when the variable is not set or is none of the names */
static am_isa wanted_isa(void)
{
    const char *want = getenv("AM_ISA");
    if (!want || !*want) return AM_ISA_COUNT;
    for (int i = 0; i < AM_ISA_COUNT; i++)
        if (strcmp(want, names[i]) == 0) return (am_isa)i;
    return AM_ISA_COUNT;
}

am_isa am_kernels_cpu_isa(void)
{
    am_isa have = machine_isa(), want = wanted_isa();
    return want < have ? want : have;
}

am_status am_kernels_cpu_isa_check(void)
{
    am_status st = AM_OK;
    const char *want = getenv("AM_ISA");
    am_isa have = machine_isa(), wanted = wanted_isa();
    AM_CHECK(!want || !*want || wanted < AM_ISA_COUNT, AM_ERR_ENVIRONMENT,
             "AM_ISA=%s is not an instruction set; write portable, avx2, avx512 or avx512_bf16, or unset it",
             want);
    AM_CHECK(wanted == AM_ISA_COUNT || wanted <= have, AM_ERR_ENVIRONMENT,
             "AM_ISA=%s, but this machine offers no more than %s; write that or unset AM_ISA", want,
             names[have]);
done:
    return st;
}
