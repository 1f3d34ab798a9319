# cowctl and cowbench. They link the code behind libcowclient rather than the library itself: they use
# calls that only cowd's own tools need, and they are no wrapper scripts in the build tree.
TOOLS_CFLAGS = $(EXE_CFLAGS) $(PROTOBUF_C_CFLAGS) $(JSON_C_CFLAGS) $(SMARTCOLS_CFLAGS)
TOOLS_LIBS = tools/libtools.la libclient-internal.la

noinst_LTLIBRARIES += tools/libtools.la
tools_libtools_la_CFLAGS = $(AM_CFLAGS) $(JSON_C_CFLAGS) $(SMARTCOLS_CFLAGS)
tools_libtools_la_LIBADD = libcommon.la $(JSON_C_LIBS) $(SMARTCOLS_LIBS) -lm
tools_libtools_la_SOURCES = \
	tools/cli.c \
	tools/cli.h \
	tools/progress.c \
	tools/progress.h \
	tools/report.c \
	tools/report.h \
	tools/samples.c \
	tools/samples.h \
	tools/savefile.c \
	tools/savefile.h \
	$(NULL)

bin_PROGRAMS += cowctl
cowctl_CFLAGS = $(TOOLS_CFLAGS)
cowctl_LDFLAGS = $(EXE_LINKFLAGS)
cowctl_LDADD = $(TOOLS_LIBS)
cowctl_SOURCES = \
	tools/check-machine.c \
	tools/check-machine.h \
	tools/cowctl-check.c \
	tools/cowctl-list.c \
	tools/cowctl-save.c \
	tools/cowctl.c \
	tools/cowctl.h \
	$(NULL)

completionsdir = $(datadir)/bash-completion/completions
dist_completions_DATA = tools/completions/cowbench tools/completions/cowctl

bin_PROGRAMS += cowbench
cowbench_CFLAGS = $(TOOLS_CFLAGS)
cowbench_LDFLAGS = $(EXE_LINKFLAGS)
cowbench_LDADD = $(TOOLS_LIBS)
cowbench_SOURCES = \
	tools/bench/bench.h \
	tools/bench/child.c \
	tools/bench/child.h \
	tools/bench/compare.c \
	tools/bench/cowbench.c \
	tools/bench/faults.c \
	tools/bench/fork.c \
	tools/bench/measure.c \
	tools/bench/memory.c \
	tools/bench/modes.c \
	tools/bench/options.c \
	tools/bench/options.h \
	tools/bench/repeat-copy.c \
	tools/bench/repeat-report.c \
	tools/bench/repeat-turn.c \
	tools/bench/repeat-worker.c \
	tools/bench/repeat.c \
	tools/bench/repeat.h \
	tools/bench/rollback.c \
	tools/bench/turn.c \
	tools/bench/turn.h \
	tools/bench/waits.c \
	tools/bench/waits.h \
	tools/bench/writer-kinds.c \
	tools/bench/writer.c \
	tools/bench/writer.h \
	$(NULL)

dist_noinst_SCRIPTS += tools/bench/plot.sh tools/bench/table.sh
EXTRA_DIST += doc/benchmarks.md doc/benchmarks-history.md
