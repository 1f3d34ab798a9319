noinst_LTLIBRARIES += libcommon.la
libcommon_la_SOURCES = \
	common/clock.h \
	common/err.c \
	common/err.h \
	common/format.c \
	common/format.h \
	common/hist.c \
	common/hist.h \
	common/own-fd.c \
	common/own-fd.h \
	common/savable.c \
	common/savable.h \
	common/state.c \
	common/state.h \
	common/util.h \
	common/wire.c \
	common/wire.h \
	$(NULL)
