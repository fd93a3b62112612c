/* The one door to the HDF5 library: a process-wide lock (the library is a process-wide thing), its error
 * stack turned into one sentence, attributes.  Everything else in this module calls HDF5 only while it holds
 * the lock. */
#include "data/data_internal.h"

#include <pthread.h>
#include <string.h>

/* Debian's serial HDF5 is built thread-safe, other builds are not: one thread at a time is right for all. */
static pthread_mutex_t h5_mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void am_h5_lock(void)
{
    pthread_mutex_lock(&h5_mutex);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* per thread in thread-safe builds */
}

void am_h5_unlock(void)
{
    pthread_mutex_unlock(&h5_mutex);
}

/* Walking upwards from the deepest frame; the first one with a text says most. */
static herr_t take_deepest(unsigned n, const H5E_error2_t *frame, void *user)
{
    char *text = user;
    if (n == 0 && frame->desc) snprintf(text, 200, "%s", frame->desc);
    return 0;
}

am_status am_h5_fail(am_status code, const char *path, const char *what)
{
    char reason[200] = "HDF5 gives no reason";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_deepest, reason);
    H5Eclear2(H5E_DEFAULT);
    return am_fail(code, "%s: %s: %s", path, what, reason);
}

void am_h5_close(hid_t *id)
{
    if (*id > 0) {
        switch (H5Iget_type(*id)) {
        case H5I_FILE:
            H5Fclose(*id);
            break;
        case H5I_DATASET:
            H5Dclose(*id);
            break;
        case H5I_DATASPACE:
            H5Sclose(*id);
            break;
        case H5I_DATATYPE:
            H5Tclose(*id);
            break;
        case H5I_ATTR:
            H5Aclose(*id);
            break;
        case H5I_GENPROP_LST:
            H5Pclose(*id);
            break;
        default:
            break;
        }
    }
    *id = 0;
}

void am_strings_free(char ***values, int64_t n)
{
    if (!*values) return;
    for (int64_t i = 0; i < n; i++) am_free(&(*values)[i]);
    am_free(values);
}

am_status am_h5_write_attr_i64(hid_t file, const char *path, const char *name, int64_t value)
{
    am_status st = AM_OK;
    hid_t space = 0, attr = 0;
    AM_TRY_H5(space = H5Screate(H5S_SCALAR), AM_ERR_IO, path, name);
    AM_TRY_H5(attr = H5Acreate2(file, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), AM_ERR_IO, path,
              name);
    AM_TRY_H5(H5Awrite(attr, H5T_NATIVE_INT64, &value), AM_ERR_IO, path, name);
done:
    am_h5_close(&attr);
    am_h5_close(&space);
    return st;
}

am_status am_h5_write_attr_str(hid_t file, const char *path, const char *name, const char *const *values,
                               int64_t n, bool scalar)
{
    am_status st = AM_OK;
    hid_t space = 0, type = 0, attr = 0;
    char *flat = NULL;
    size_t width = 1;
    hsize_t dims = (hsize_t)n;
    for (int64_t i = 0; i < n; i++) width = strlen(values[i]) > width ? strlen(values[i]) : width;
    AM_TRY(am_calloc((size_t)n + 1, width, &flat));
    for (int64_t i = 0; i < n; i++) memcpy(flat + (size_t)i * width, values[i], strlen(values[i]));
    AM_TRY_H5(space = scalar ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &dims, NULL), AM_ERR_IO, path,
              name);
    AM_TRY_H5(type = H5Tcopy(H5T_C_S1), AM_ERR_IO, path, name);
    AM_TRY_H5(H5Tset_size(type, width), AM_ERR_IO, path, name);
    AM_TRY_H5(H5Tset_strpad(type, H5T_STR_NULLPAD), AM_ERR_IO, path, name);
    AM_TRY_H5(H5Tset_cset(type, H5T_CSET_UTF8), AM_ERR_IO, path, name);
    AM_TRY_H5(attr = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT), AM_ERR_IO, path, name);
    AM_TRY_H5(H5Awrite(attr, type, flat), AM_ERR_IO, path, name);
done:
    am_h5_close(&attr);
    am_h5_close(&type);
    am_h5_close(&space);
    am_free(&flat);
    return st;
}

am_status am_h5_read_attr_i64(hid_t file, const char *path, const char *name, int64_t *value)
{
    am_status st = AM_OK;
    hid_t attr = 0, type = 0, space = 0;
    char what[96];
    snprintf(what, sizeof what, "the attribute %s", name);
    AM_CHECK(H5Aexists(file, name) > 0, AM_ERR_DATA, "%s: %s is missing: not a token shard of automodel",
             path, what);
    AM_TRY_H5(attr = H5Aopen(file, name, H5P_DEFAULT), AM_ERR_DATA, path, what);
    AM_TRY_H5(type = H5Aget_type(attr), AM_ERR_DATA, path, what);
    AM_TRY_H5(space = H5Aget_space(attr), AM_ERR_DATA, path, what);
    AM_CHECK(H5Tget_class(type) == H5T_INTEGER && H5Sget_simple_extent_npoints(space) == 1, AM_ERR_DATA,
             "%s: %s is not one integer", path, what);
    AM_TRY_H5(H5Aread(attr, H5T_NATIVE_INT64, value), AM_ERR_DATA, path, what);
done:
    am_h5_close(&space);
    am_h5_close(&type);
    am_h5_close(&attr);
    return st;
}

/* n strings of variable length: HDF5 allocates each one. */
static am_status read_variable(hid_t attr, hid_t type, hid_t space, const char *path, const char *what,
                               char **out, int64_t n)
{
    am_status st = AM_OK;
    char **raw = NULL;
    bool filled = false;
    AM_TRY(am_calloc((size_t)n, sizeof *raw, &raw));
    AM_TRY_H5(H5Aread(attr, type, raw), AM_ERR_DATA, path, what);
    filled = true;
    for (int64_t i = 0; i < n; i++) AM_TRY(am_strdup(raw[i] ? raw[i] : "", &out[i]));
done:
    if (filled) H5Dvlen_reclaim(type, space, H5P_DEFAULT, raw);
    am_free(&raw);
    return st;
}

static am_status read_fixed(hid_t attr, hid_t type, const char *path, const char *what, char **out, int64_t n)
{
    am_status st = AM_OK;
    char *flat = NULL;
    size_t width = H5Tget_size(type);
    AM_TRY(am_calloc((size_t)n + 1, width, &flat));
    AM_TRY_H5(H5Aread(attr, type, flat), AM_ERR_DATA, path, what);
    for (int64_t i = 0; i < n; i++) {
        const char *s = flat + (size_t)i * width;
        AM_TRY(am_strndup(s, strnlen(s, width), &out[i]));
    }
done:
    am_free(&flat);
    return st;
}

am_status am_h5_read_attr_str(hid_t file, const char *path, const char *name, char ***values, int64_t *n)
{
    am_status st = AM_OK;
    hid_t attr = 0, type = 0, space = 0;
    char what[96];
    *values = NULL;
    *n = 0;
    snprintf(what, sizeof what, "the attribute %s", name);
    if (H5Aexists(file, name) <= 0) goto done;
    AM_TRY_H5(attr = H5Aopen(file, name, H5P_DEFAULT), AM_ERR_DATA, path, what);
    AM_TRY_H5(type = H5Aget_type(attr), AM_ERR_DATA, path, what);
    AM_TRY_H5(space = H5Aget_space(attr), AM_ERR_DATA, path, what);
    AM_CHECK(H5Tget_class(type) == H5T_STRING, AM_ERR_DATA, "%s: %s is not text", path, what);
    hssize_t count = H5Sget_simple_extent_npoints(space);
    AM_CHECK(count >= 0 && count <= 1000000, AM_ERR_DATA, "%s: %s has %lld values", path, what,
             (long long)count);
    AM_TRY(am_calloc((size_t)count + 1, sizeof **values, values));
    *n = count;
    if (count == 0) goto done;
    if (H5Tis_variable_str(type) > 0)
        AM_TRY(read_variable(attr, type, space, path, what, *values, count));
    else
        AM_TRY(read_fixed(attr, type, path, what, *values, count));
done:
    if (st != AM_OK) {
        am_strings_free(values, *n);
        *n = 0;
    }
    am_h5_close(&space);
    am_h5_close(&type);
    am_h5_close(&attr);
    return st;
}
