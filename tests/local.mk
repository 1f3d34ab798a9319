# Tests: `make check` runs TESTS, each under the time limit of tests/run-test.sh.
#
# A test program is a check_PROGRAMS entry that is also in TESTS. Those that link the library link the
# code behind it (libclient-internal.la), so that the program is no wrapper script and can be copied
# into the machines of tests/system/vm.sh; what is exported is tests/abi's matter.
#
#	TESTS_CFLAGS, TESTS_UNIT_LDADD   for tests/unit: libcheck, the daemon's modules
#	TESTS_SYSTEM_LDADD               for tests/system: libfixture.la (a real cowd), the library
TESTS_CFLAGS = $(EXE_CFLAGS) $(CHECK_CFLAGS) $(PROTOBUF_C_CFLAGS) -I$(top_srcdir)/tests
TESTS_UNIT_LDADD = libcowd.la $(CHECK_LIBS)
TESTS_SYSTEM_LDADD = tests/libfixture.la libclient-internal.la $(CHECK_LIBS)
TESTS_LDFLAGS = $(EXE_LINKFLAGS)

# What a test finds in its environment, whatever directory it is started from.
AM_TESTS_ENVIRONMENT = \
	abs_top_srcdir='$(abs_top_srcdir)'; export abs_top_srcdir; \
	abs_top_builddir='$(abs_top_builddir)'; export abs_top_builddir; \
	COWD_PROGRAM='$(abs_top_builddir)/cowd'; export COWD_PROGRAM; \
	COWD_EXECUTABLE='$(abs_top_builddir)/cowd'; export COWD_EXECUTABLE; \
	COWCTL_PROGRAM='$(abs_top_builddir)/cowctl'; export COWCTL_PROGRAM; \
	COWBENCH_PROGRAM='$(abs_top_builddir)/cowbench'; export COWBENCH_PROGRAM; \
	COWD_SANITIZERS='$(enable_sanitizers)'; export COWD_SANITIZERS; \
	CC='$(CC)'; export CC; CXX='$(CXX)'; export CXX; \
	unset COWD_ADDRESS NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES;
TEST_EXTENSIONS = .sh
LOG_COMPILER = $(SHELL) $(top_srcdir)/tests/run-test.sh
SH_LOG_COMPILER = $(LOG_COMPILER) bash
dist_noinst_SCRIPTS += tests/run-test.sh

# A real cowd for tests/system: daemon-fixture.h.
noinst_LTLIBRARIES += tests/libfixture.la
tests_libfixture_la_SOURCES = \
	tests/system/daemon-fixture.c \
	tests/system/daemon-fixture.h \
	$(NULL)
