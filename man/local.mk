# Man pages, written in scdoc(5). To add one: its name in MAN_PAGES, its source beside it with .scd added.
MAN_PAGES = \
	man/cowbench.1 \
	man/cowctl.1 \
	man/cowd.8 \
	man/cowd.conf.5 \
	$(NULL)
man_MANS += $(MAN_PAGES)
EXTRA_DIST += $(MAN_PAGES:=.scd)
CLEANFILES += $(MAN_PAGES)

SUFFIXES = .scd
.scd:
	$(AM_V_GEN)$(MKDIR_P) $(@D) && $(SCDOC) <$< >$@.tmp && mv $@.tmp $@
