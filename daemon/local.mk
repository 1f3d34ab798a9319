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
	daemon/base/closer.c \
	daemon/base/closer.h \
	daemon/base/hash.h \
	daemon/base/job.c \
	daemon/base/job.h \
	daemon/base/loop.c \
	daemon/base/loop.h \
	daemon/base/outcome.h \
	daemon/base/options.h \
	daemon/base/priority.c \
	daemon/base/priority.h \
	daemon/base/probe.c \
	daemon/base/probe.h \
	daemon/base/quota.c \
	daemon/base/quota.h \
	daemon/base/stats.c \
	daemon/base/stats.h \
	daemon/base/worker.c \
	daemon/base/worker.h \
	daemon/daemon.h \
	daemon/session.h \
	daemon/process/device.c \
	daemon/process/device.h \
	daemon/process/landlock.c \
	daemon/process/log.c \
	daemon/process/log.h \
	daemon/process/options-file.c \
	daemon/process/options-file.h \
	daemon/process/options.c \
	daemon/process/options.h \
	daemon/process/sandbox.c \
	daemon/process/sandbox.h \
	daemon/process/seccomp.c \
	daemon/process/service.c \
	daemon/process/service.h \
	daemon/region/backing.c \
	daemon/region/backing.h \
	daemon/region/children.c \
	daemon/region/children.h \
	daemon/region/ops.h \
	daemon/region/region.c \
	daemon/region/region.h \
	daemon/region/state.c \
	daemon/region/state.h \
	daemon/rpc/child.c \
	daemon/rpc/events.c \
	daemon/rpc/events.h \
	daemon/rpc/hello.c \
	daemon/rpc/list.c \
	daemon/rpc/listener.c \
	daemon/rpc/listener.h \
	daemon/rpc/peer.c \
	daemon/rpc/peer.h \
	daemon/rpc/region.c \
	daemon/rpc/rollback.c \
	daemon/rpc/rpc.c \
	daemon/rpc/rpc.h \
	daemon/rpc/save.c \
	daemon/rpc/send-queue.c \
	daemon/rpc/send-queue.h \
	daemon/rpc/session.c \
	daemon/rpc/session.h \
	daemon/rpc/snapshot.c \
	daemon/rpc/stats.c \
	daemon/rpc/view.c \
	daemon/snapshot/frozen.c \
	daemon/snapshot/frozen.h \
	daemon/snapshot/save.c \
	daemon/snapshot/save.h \
	daemon/snapshot/sink.c \
	daemon/snapshot/sink.h \
	daemon/snapshot/snapshot.c \
	daemon/snapshot/snapshot.h \
	daemon/snapshot/view.c \
	daemon/snapshot/view.h \
	daemon/uffd/arm.c \
	daemon/uffd/chain-read.c \
	daemon/uffd/chain.c \
	daemon/uffd/chain.h \
	daemon/uffd/event.c \
	daemon/uffd/event.h \
	daemon/uffd/fault.c \
	daemon/uffd/follow.c \
	daemon/uffd/follow.h \
	daemon/uffd/prealloc.c \
	daemon/uffd/prealloc.h \
	daemon/uffd/quota-wait.c \
	daemon/uffd/quota-wait.h \
	daemon/uffd/rollback.c \
	daemon/uffd/rollback.h \
	daemon/uffd/slots.c \
	daemon/uffd/slots.h \
	daemon/uffd/store.c \
	daemon/uffd/sweep.c \
	daemon/uffd/tracker.c \
	daemon/uffd/tracker.h \
	$(NULL)
