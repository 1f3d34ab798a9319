sbin_PROGRAMS += cowd
cowd_SOURCES = daemon/main.c
cowd_CFLAGS = $(EXE_CFLAGS)
cowd_LDFLAGS = $(EXE_LINKFLAGS)
cowd_LDADD = libcowd.la

# All but main(), so that unit tests can link it.
noinst_LTLIBRARIES += libcowd.la
libcowd_la_CFLAGS = $(AM_CFLAGS) $(SECCOMP_CFLAGS) $(SYSTEMD_CFLAGS) $(PROTOBUF_C_CFLAGS) $(INIH_CFLAGS) $(CAP_NG_CFLAGS)
libcowd_la_LIBADD = libbackends.la libproto.la libcommon.la \
	$(SECCOMP_LIBS) $(SYSTEMD_LIBS) $(PROTOBUF_C_LIBS) $(INIH_LIBS) $(CAP_NG_LIBS)
libcowd_la_SOURCES = \
	daemon/daemon.h \
	daemon/job.h \
	daemon/loop.h \
	daemon/options.h \
	daemon/probe.h \
	daemon/quota.h \
	daemon/rpc.h \
	daemon/session.h \
	daemon/stats.h \
	$(NULL)
