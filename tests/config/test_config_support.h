/* What the tests of config share: parsing a text under the name "r.yaml". */
#ifndef TEST_CONFIG_SUPPORT_H
#define TEST_CONFIG_SUPPORT_H

#include "config/config.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static inline am_config *parse_ok(const char *text, int num_args, const char *const *args)
{
    am_config *cfg = NULL;
    if (am_config_parse(text, strlen(text), "r.yaml", num_args, args, &cfg) != AM_OK)
        fail_msg("%s", am_error_message());
    return cfg;
}

/* The whole sentence is compared: position, what is wrong, what to write instead. */
static inline void parse_fails(const char *text, int num_args, const char *const *args, const char *sentence)
{
    am_config *cfg = NULL;
    am_status st = am_config_parse(text, strlen(text), "r.yaml", num_args, args, &cfg);
    if (st != AM_ERR_CONFIG && st != AM_ERR_USAGE)
        fail_msg("accepted, or another status (%d): %s", (int)st, text);
    assert_null(cfg);
    assert_string_equal(am_error_message(), sentence);
}

#endif
