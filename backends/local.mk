# Both halves of each mechanism. Knows neither sockets nor protobuf.
noinst_LTLIBRARIES += libbackends.la
libbackends_la_SOURCES = \
	backends/extents.c \
	backends/extents.h \
	backends/features.c \
	backends/features.h \
	backends/hold.c \
	backends/hold.h \
	backends/kernel.h \
	backends/mmapcopy/mmapcopy.c \
	backends/mmapcopy/mmapcopy.h \
	backends/own-proc.c \
	backends/own-proc.h \
	backends/pagebits.c \
	backends/pagebits.h \
	backends/pagemap.c \
	backends/pagemap.h \
	backends/scoot/adopt.c \
	backends/scoot/change.c \
	backends/scoot/clone.c \
	backends/scoot/internal.h \
	backends/scoot/dear.c \
	backends/scoot/prepare-fork.c \
	backends/scoot/region.c \
	backends/scoot/scoot.h \
	backends/scoot/snapshot.c \
	backends/scoot/take.c \
	backends/scoot/shadow.c \
	backends/settle.c \
	backends/settle.h \
	backends/protect.c \
	backends/protect.h \
	backends/space.c \
	backends/space.h \
	backends/trial.c \
	backends/trial.h \
	backends/uffdio.c \
	backends/uffdio.h \
	$(NULL)

# Only for COW_REGION_STOP_THREADS.
if WITH_STOP_THREADS
libbackends_la_SOURCES += backends/stop.c backends/stop.h
else
EXTRA_DIST += backends/stop.c backends/stop.h
endif
