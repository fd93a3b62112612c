/* Every card of the folder $AM_SHARED_CARDS parses, and its flattened print parses again.  Skipped (77)
 * without the folder. */
#include "card_test.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static const char *folder;

static void test_card__drafts_parse(void **state)
{
    int n = 0;
    struct dirent *e;
    DIR *d = opendir(folder);
    assert_non_null(d);
    while ((e = readdir(d))) {
        const char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".card") != 0) continue;
        char path[1024];
        am_card *c = NULL, *again = NULL;
        am_str text = {0};
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        expect_ok(am_card_open(path, &c));
        expect_ok(am_card_print(c, &text));
        expect_ok(am_card_parse(text.s, e->d_name, folder, &again));
        assert_non_null(am_card_family(c, 0));
        am_str_release(&text);
        am_card_free(&c);
        am_card_free(&again);
        n++;
    }
    closedir(d);
    assert_true(n >= 18);
}

int main(void)
{
    folder = getenv("AM_SHARED_CARDS");
    if (!folder || !am_path_exists(folder)) {
        printf("skipped: AM_SHARED_CARDS names no folder of cards\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_card__drafts_parse)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
