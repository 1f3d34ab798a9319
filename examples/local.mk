# Programs as users write them: the installed headers' names, the shared library, nothing internal.
EXAMPLES_CFLAGS = $(EXE_CFLAGS) -I$(top_srcdir)/libclient

noinst_PROGRAMS += keep-a-file
keep_a_file_CFLAGS = $(EXAMPLES_CFLAGS)
keep_a_file_LDFLAGS = $(EXE_LINKFLAGS)
keep_a_file_LDADD = libcowclient.la
keep_a_file_SOURCES = examples/keep-a-file.c

noinst_PROGRAMS += ten-lines
ten_lines_CFLAGS = $(EXAMPLES_CFLAGS)
ten_lines_LDFLAGS = $(EXE_LINKFLAGS)
ten_lines_LDADD = libcowclient.la
ten_lines_SOURCES = examples/ten-lines.c
