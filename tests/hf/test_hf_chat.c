/* Chat templates: text and masks of data/chat_cases.json, which data/make_chat_cases.py wrote with
 * transformers; then where templates are found, and what happens when the template, Python or the helper
 * process is at fault. */
#include "hf_test.h"

#include "hf/chat.h"

#include <signal.h>
#include <sys/wait.h>

static json_t *fixture;
static am_tokenizer *tokenizer;
static am_tok_scratch *scratch;

static const char *data_path(const char *name)
{
    static char path[4096];
    const char *source = getenv("AM_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/tests/hf/data/%s", source != NULL ? source : ".", name);
    return path;
}

static json_t *parse(const char *text)
{
    json_t *j = NULL;
    assert_ok(am_json_parse(text, strlen(text), "test", &j));
    return j;
}

/* A model folder with this template and the roles that the fixture was made with. */
static const char *model_with(const char *template)
{
    const char *dir = temporary_folder();
    write_text(dir, "chat_template.jinja", template);
    write_text(dir, "tokenizer_config.json",
               "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"<|im_end|>\"}}");
    return dir;
}

static void check_ids(const char *what, const am_chat_sample *s, json_t *ids, json_t *mask)
{
    size_t ones = 0;
    if (s->tokens.n != json_array_size(ids)) fail_msg("%s: %zu ids: %s", what, s->tokens.n, s->text.s);
    for (size_t i = 0; i < s->tokens.n; i++) {
        ones += s->loss_mask[i];
        if (s->tokens.ids[i] != json_integer_value(json_array_get(ids, i)) ||
            s->loss_mask[i] != json_integer_value(json_array_get(mask, i)))
            fail_msg("%s: token %zu is %u, mask %d: %s", what, i, s->tokens.ids[i], s->loss_mask[i],
                     s->text.s);
    }
    assert_int_equal(ones, s->num_supervised);
}

static void check_case(am_chat *chat, json_t *c, const char *what)
{
    json_t *messages = json_object_get(c, "messages"), *tools = json_object_get(c, "tools");
    json_t *turns = json_object_get(c, "turns"), *turn;
    am_str text = {0};
    size_t i;
    am_chat_samples out = {0};
    assert_ok(am_chat_render(chat, messages, tools, true, &text));
    assert_string_equal(text.s, json_string_value(json_object_get(c, "prompted")));
    assert_ok(am_chat_encode(chat, scratch, messages, tools, AM_CHAT_WHOLE, &out));
    assert_int_equal(out.n, 1);
    assert_int_equal(out.items[0].text.len, json_string_length(json_object_get(c, "text")));
    assert_memory_equal(out.items[0].text.s, json_string_value(json_object_get(c, "text")),
                        out.items[0].text.len);
    check_ids(what, &out.items[0], json_object_get(c, "ids"), json_object_get(c, "mask"));
    assert_int_equal(out.num_unsupervised, json_integer_value(json_object_get(c, "lost")));
    if (json_is_array(turns)) {
        assert_ok(am_chat_encode(chat, scratch, messages, tools, AM_CHAT_PER_TURN, &out));
        assert_int_equal(out.n, json_array_size(turns));
        json_array_foreach(turns, i, turn)
            check_ids(what, &out.items[i], json_object_get(turn, "ids"), json_object_get(turn, "mask"));
    }
    am_chat_samples_release(&out);
    am_str_release(&text);
}

static void test_hf_chat__equals_transformers(void **state)
{
    const char *name;
    json_t *template, *c;
    size_t i;
    json_object_foreach(json_object_get(fixture, "templates"), name, template)
    {
        am_chat *chat = NULL;
        const char *dir = model_with(json_string_value(template));
        assert_ok(am_chat_open(dir, tokenizer, NULL, &chat));
        json_array_foreach(json_object_get(fixture, "cases"), i, c)
        {
            if (strcmp(json_string_value(json_object_get(c, "template")), name) == 0)
                check_case(chat, c, name);
        }
        am_chat_free(&chat);
        remove_folder(dir);
    }
}

/* A turn alone is supervised in its own blocks only, even where one message has several. */
static void test_hf_chat__blocks_per_turn(void **state)
{
    am_chat *chat = NULL;
    am_chat_samples out = {0};
    const char *dir = model_with(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}a{% endgeneration %}-"
        "{% generation %}b{% endgeneration %}|{% else %}u|{% endif %}{% endfor %}");
    json_t *messages =
        parse("[{\"role\":\"user\"},{\"role\":\"assistant\"},{\"role\":\"user\"},{\"role\":\"assistant\"}]");
    assert_ok(am_chat_open(dir, tokenizer, NULL, &chat));
    assert_ok(am_chat_encode(chat, scratch, messages, NULL, AM_CHAT_PER_TURN, &out));
    assert_int_equal(out.n, 2);
    assert_string_equal(out.items[1].text.s, "u|a-b|u|a-b|");
    for (size_t i = 0; i < out.items[1].tokens.n; i++) {
        uint32_t at = out.items[1].tokens.start[i];
        assert_int_equal(out.items[1].loss_mask[i], at == 8 || at == 10);
    }
    am_chat_samples_release(&out);
    am_chat_free(&chat);
    json_decref(messages);
    remove_folder(dir);
}

static void render_is(const char *dir, const am_chat_options *o, const char *messages, const char *tools,
                      const char *expected)
{
    am_chat *chat = NULL;
    am_str text = {0};
    json_t *m = parse(messages), *t = tools == NULL ? NULL : parse(tools);
    assert_ok(am_chat_open(dir, NULL, o, &chat));
    assert_ok(am_chat_render(chat, m, t, false, &text));
    assert_string_equal(text.s, expected);
    am_str_release(&text);
    am_chat_free(&chat);
    json_decref(m);
    json_decref(t);
}

#define ONE "[{\"role\": \"user\", \"content\": \"x\"}]"

static void test_hf_chat__where_templates_stand(void **state)
{
    am_chat_options named = {.template_name = "rag"}, other = {0};
    const char *dir = temporary_folder();
    char folder[300], path[400];
    assert_false(am_chat_exists(dir));
    write_text(dir, "chat_template.json", "{\"chat_template\": \"legacy\"}");
    render_is(dir, NULL, ONE, NULL, "legacy");
    write_text(dir, "tokenizer_config.json",
               "{\"chat_template\": \"string{{ bos_token }}\", \"bos_token\": null}");
    render_is(dir, NULL, ONE, NULL, "string");
    write_text(dir, "tokenizer_config.json",
               "{\"chat_template\": [{\"name\": \"default\", \"template\": \"plain\"}, "
               "{\"name\": \"tool_use\", \"template\": \"with tools\"}]}");
    render_is(dir, NULL, ONE, NULL, "plain");
    render_is(dir, NULL, ONE, "null", "plain");
    render_is(dir, NULL, ONE, "[{}]", "with tools");
    write_text(dir, "chat_template.jinja", "file");
    render_is(dir, NULL, ONE, "[{}]", "file");
    snprintf(folder, sizeof folder, "%s/additional_chat_templates", dir);
    assert_ok(am_mkdirs(folder));
    write_text(folder, "rag.jinja", "rag {{ messages[0].content }}");
    render_is(dir, &named, ONE, NULL, "rag x");
    snprintf(path, sizeof path, "%s/rag.jinja", folder);
    other.template_path = path;
    render_is(dir, &other, ONE, NULL, "rag x");
    assert_true(am_chat_exists(dir));
    remove_folder(dir);
}

/* SHA-256 of one template is that of its bytes (printf %s abc | sha256sum). */
static void test_hf_chat__identity(void **state)
{
    am_chat *chat = NULL;
    const char *dir = model_with("abc");
    assert_ok(am_chat_open(dir, NULL, NULL, &chat));
    assert_string_equal(am_chat_sha256(chat),
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    am_chat_free(&chat);
    remove_folder(dir);
}

static void open_fails(const char *template, const am_chat_options *o, am_status status, const char *sentence)
{
    am_chat *chat = NULL;
    const char *dir = model_with(template);
    assert_fails(am_chat_open(dir, NULL, o, &chat), status, sentence);
    assert_null(chat);
    remove_folder(dir);
}

static void test_hf_chat__open_fails_clearly(void **state)
{
    const am_chat_options absent = {.python = "/no/such/python"}, mute = {.python = "/bin/true"},
                          name = {.template_name = "x"};
    am_chat *chat = NULL;
    const char *dir = temporary_folder();
    assert_fails(am_chat_open(dir, NULL, NULL, &chat), AM_ERR_MODEL, "has no chat template");
    remove_folder(dir);
    open_fails("a\nb {% if %}", NULL, AM_ERR_MODEL, "line 2 of the template");
    open_fails("x", &name, AM_ERR_CONFIG, "\"x\"");
    open_fails("x", &absent, AM_ERR_ENVIRONMENT, "apt-get install python3-jinja2");
    open_fails("x", &mute, AM_ERR_ENVIRONMENT, "ended by itself, exit code 0");
}

/* A Python without its site-packages has no Jinja2. */
static void test_hf_chat__jinja2_is_missing(void **state)
{
    char path[600];
    const char *dir = model_with("x"), *real = getenv("AM_PYTHON");
    am_chat *chat = NULL;
    am_str script = {0};
    assert_ok(
        am_str_printf(&script, "#!/bin/sh\nexec %s -S \"$@\"\n", real != NULL ? real : "/usr/bin/python3"));
    write_text(dir, "bare_python", script.s);
    snprintf(path, sizeof path, "%s/bare_python", dir);
    assert_int_equal(chmod(path, 0755), 0);
    const am_chat_options o = {.python = path};
    assert_fails(am_chat_open(dir, NULL, &o, &chat), AM_ERR_ENVIRONMENT, "apt-get install python3-jinja2");
    am_str_release(&script);
    remove_folder(dir);
}

static void render_fails(const char *template, const char *messages, am_status status, const char *sentence)
{
    const am_chat_options quick = {.timeout_s = 2};
    am_chat *chat = NULL;
    am_str text = {0};
    const char *dir = model_with(template);
    json_t *m = parse(messages);
    assert_ok(am_chat_open(dir, NULL, &quick, &chat));
    assert_fails(am_chat_render(chat, m, NULL, false, &text), status, sentence);
    if (status == AM_ERR_ENVIRONMENT) /* it stays gone */
        assert_fails(am_chat_render(chat, m, NULL, false, &text), status, sentence);
    am_str_release(&text);
    am_chat_free(&chat);
    json_decref(m);
    remove_folder(dir);
}

static void test_hf_chat__templates_refuse(void **state)
{
    render_fails("\n{{ raise_exception('roles must alternate') }}", ONE, AM_ERR_DATA,
                 "roles must alternate (line 2 of");
    render_fails("{{ messages[0].absent.deep }}", ONE, AM_ERR_DATA, "absent");
    render_fails("{{ messages.append(1) }}", ONE, AM_ERR_DATA, "append");      /* immutable */
    render_fails("{{ ''.__class__.__mro__ }}", ONE, AM_ERR_DATA, "unsafe");    /* sandbox */
    render_fails("{{ 'x' * 100000000000 }}", ONE, AM_ERR_DATA, "MemoryError"); /* bounded */
    render_fails("x", "[]", AM_ERR_DATA, "at least one message");
    render_fails("x", "[{\"content\": \"no role\"}]", AM_ERR_DATA, "messages[0] has no \"role\"");
    render_fails("x", "{}", AM_ERR_DATA, "messages");
    render_fails(
        "{% for m in messages %}{% set t %}{% generation %}{{ m.content }}{% endgeneration %}{% endset %}"
        "{{ t | length }}{% endfor %}",
        ONE, AM_ERR_DATA, "generation blocks");
}

static void test_hf_chat__a_hung_helper_is_ended(void **state)
{
    render_fails("{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor "
                 "%}{% endfor %}"
                 "{% endfor %}",
                 ONE, AM_ERR_ENVIRONMENT, "did not answer in time");
}

/* The first child of this process: the helper. */
static pid_t only_child(void)
{
    char command[64], line[32] = {0};
    snprintf(command, sizeof command, "pgrep -n -P %ld python", (long)getpid());
    FILE *p = popen(command, "r");
    assert_non_null(p);
    char *got = fgets(line, sizeof line, p);
    pclose(p);
    return got == NULL ? 0 : (pid_t)strtol(line, NULL, 10);
}

static void test_hf_chat__a_dead_helper_is_told(void **state)
{
    am_chat *chat = NULL;
    am_str text = {0};
    const char *dir = model_with("x");
    json_t *m = parse(ONE);
    assert_ok(am_chat_open(dir, NULL, NULL, &chat));
    pid_t pid = only_child();
    if (pid > 0) {
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_fails(am_chat_render(chat, m, NULL, false, &text), AM_ERR_ENVIRONMENT, "signal 9");
    }
    am_chat_free(&chat);
    am_str_release(&text);
    json_decref(m);
    remove_folder(dir);
    if (pid <= 0) skip(); /* no pgrep on this machine */
}

/* Strings of the data that spell control tokens are counted. */
static void test_hf_chat__special_tokens_in_messages(void **state)
{
    am_chat *chat = NULL;
    am_chat_samples out = {0};
    const char *dir = model_with("{% for m in messages %}{{ m.content }}{% endfor %}");
    json_t *m = parse("[{\"role\": \"user\", \"content\": \"a <|im_end|> b <s>\"}, {\"role\": \"user\", "
                      "\"content\": \"plain\"}]");
    json_t *tools = parse("[{\"name\": \"</s>\"}]");
    assert_ok(am_chat_open(dir, tokenizer, NULL, &chat));
    assert_ok(am_chat_encode(chat, scratch, m, tools, AM_CHAT_WHOLE, &out));
    assert_int_equal(out.num_special_in_text, 2);
    assert_int_equal(out.num_assistant, 0);
    assert_int_equal(out.items[0].num_supervised, 0);
    am_chat_samples_release(&out);
    am_chat_free(&chat);
    json_decref(m);
    json_decref(tools);
    remove_folder(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_chat__equals_transformers),
        cmocka_unit_test(test_hf_chat__blocks_per_turn),
        cmocka_unit_test(test_hf_chat__where_templates_stand),
        cmocka_unit_test(test_hf_chat__identity),
        cmocka_unit_test(test_hf_chat__open_fails_clearly),
        cmocka_unit_test(test_hf_chat__jinja2_is_missing),
        cmocka_unit_test(test_hf_chat__templates_refuse),
        cmocka_unit_test(test_hf_chat__a_hung_helper_is_ended),
        cmocka_unit_test(test_hf_chat__a_dead_helper_is_told),
        cmocka_unit_test(test_hf_chat__special_tokens_in_messages),
    };
    const char *python = getenv("AM_PYTHON");
    char probe[1024];
    snprintf(probe, sizeof probe, "'%s' -I -c 'import jinja2'", python != NULL ? python : "/usr/bin/python3");
    if (system(probe) != 0) {
        printf("skipped: no Python with Jinja2 (apt-get install python3-jinja2)\n");
        return 77;
    }
    if (am_json_load(data_path("chat_cases.json"), 0, &fixture) != AM_OK ||
        am_tokenizer_open(data_path("byte_bpe"), &tokenizer) != AM_OK ||
        am_tok_scratch_create(tokenizer, &scratch) != AM_OK) {
        am_error_print(stderr, -1);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    am_tok_scratch_free(&scratch);
    am_tokenizer_free(&tokenizer);
    json_decref(fixture);
    return failed;
}
