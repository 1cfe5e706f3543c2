/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A fuzz target without libFuzzer: runs each file of the directories that it is given, in the order of names. */
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max)
{
    return size; /* never called: nothing is changed here */
}

static void run_file(const char *path, size_t size)
{
    uint8_t *data = malloc(size ? size : 1);
    FILE *f = fopen(path, "re");

    FUZZ_CHECK(data && f && fread(data, 1, size, f) == size, "%s: cannot be read", path);
    fclose(f);
    fprintf(stderr, "%s\n", path); /* before: it may be the last word */
    LLVMFuzzerTestOneInput(data, size);
    free(data);
}

static unsigned run_directory(const char *dir)
{
    struct dirent **names;
    int n = scandir(dir, &names, NULL, alphasort);
    unsigned runs = 0;

    FUZZ_CHECK(n >= 0, "%s: cannot be read", dir);
    for (int i = 0; i < n; i++) {
        struct stat st;
        char *path;
        FUZZ_CHECK(asprintf(&path, "%s/%s", dir, names[i]->d_name) >= 0, "out of memory");
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
            run_file(path, (size_t)st.st_size);
            runs++;
        }
        free(path);
        free(names[i]);
    }
    free(names);
    return runs;
}

int main(int argc, char **argv)
{
    unsigned runs = 0;

    for (int i = 1; i < argc; i++)
        runs += run_directory(argv[i]);
    printf("%u inputs\n", runs);
    return runs > 0 ? 0 : 1;
}
