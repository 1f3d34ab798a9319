# The library's code once, as a convenience library: cowctl and unit tests link it for what is not
# exported; libcowclient.so is the same code behind its symbol map.
noinst_LTLIBRARIES += libclient-internal.la
libclient_internal_la_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS)
libclient_internal_la_LIBADD = libbackends.la libproto.la libcommon.la $(PROTOBUF_C_LIBS)
libclient_internal_la_SOURCES = \
	libclient/base/entry.c \
	libclient/base/entry.h \
	libclient/base/own-threads.c \
	libclient/base/own-threads.h \
	libclient/change.c \
	libclient/client.c \
	libclient/conn/call.c \
	libclient/conn/conn.h \
	libclient/conn/connect.c \
	libclient/conn/exec.c \
	libclient/conn/robbed.c \
	libclient/conn/send.c \
	libclient/conn/send.h \
	libclient/conn/conn.c \
	libclient/conn/state.c \
	libclient/conn/state.h \
	libclient/conn/tasks.c \
	libclient/conn/thread.c \
	libclient/elsewhere.c \
	libclient/fork/fork.c \
	libclient/fork/guard.c \
	libclient/internal.h \
	libclient/map.c \
	libclient/mmapcopy.c \
	libclient/modes.c \
	libclient/modes.h \
	libclient/prefault.c \
	libclient/region.c \
	libclient/registry.c \
	libclient/requests.c \
	libclient/requests.h \
	libclient/save.c \
	libclient/scoot.c \
	libclient/scoot/adopt.c \
	libclient/scoot/alone.c \
	libclient/scoot/background.c \
	libclient/scoot/blocks.c \
	libclient/scoot/blocks.h \
	libclient/scoot/break-even.c \
	libclient/scoot/lease.c \
	libclient/scoot/mode.c \
	libclient/scoot/mode.h \
	libclient/scoot/progress.c \
	libclient/scoot/stop.c \
	libclient/snapshot-params.c \
	libclient/snapshot-state.c \
	libclient/snapshot-state.h \
	libclient/snapshot.c \
	libclient/start.c \
	libclient/uffd/aside.c \
	libclient/uffd/mode.c \
	libclient/version.c \
	libclient/warm.c \
	$(NULL)

lib_LTLIBRARIES += libcowclient.la
libcowclient_la_SOURCES =
libcowclient_la_LIBADD = libclient-internal.la
libcowclient_la_LDFLAGS = $(AM_LDFLAGS) -version-info 0:0:0 -Wl,-z,defs -Wl,-z,nodelete \
	-Wl,--version-script=$(top_srcdir)/libclient/libcowclient.map
libcowclient_la_DEPENDENCIES = libclient-internal.la libclient/libcowclient.map
EXTRA_DIST += libclient/libcowclient.map

include_HEADERS += libclient/cowclient.h libclient/scoot.h
pkgconfigdir = $(libdir)/pkgconfig
nodist_pkgconfig_DATA = libclient/libcowclient.pc
