# Units, and the other files that a package needs.
systemdsystemunit_DATA = systemd/cowd.service systemd/cowd.socket
sysusersdir = $(prefix)/lib/sysusers.d
tmpfilesdir = $(prefix)/lib/tmpfiles.d
udevrulesdir = $(prefix)/lib/udev/rules.d
dist_udevrules_DATA = systemd/60-cowd.rules
cowdconfdir = $(sysconfdir)/cowd

EXTRA_DIST += \
	systemd/cowd.conf \
	systemd/cowd.service.in \
	systemd/cowd.socket \
	systemd/cowd.sysusers \
	systemd/cowd.tmpfiles \
	$(NULL)
CLEANFILES += systemd/cowd.service

systemd/cowd.service: systemd/cowd.service.in Makefile
	$(AM_V_GEN)$(MKDIR_P) systemd && \
		$(SED) -e 's|@sbindir[@]|$(sbindir)|g' $(srcdir)/systemd/cowd.service.in >$@.tmp && \
		mv $@.tmp $@

# All three are installed as cowd.conf. An existing configuration stays.
install-data-local:
	$(MKDIR_P) '$(DESTDIR)$(sysusersdir)' '$(DESTDIR)$(tmpfilesdir)' '$(DESTDIR)$(cowdconfdir)'
	$(INSTALL_DATA) $(srcdir)/systemd/cowd.sysusers '$(DESTDIR)$(sysusersdir)/cowd.conf'
	$(INSTALL_DATA) $(srcdir)/systemd/cowd.tmpfiles '$(DESTDIR)$(tmpfilesdir)/cowd.conf'
	test -e '$(DESTDIR)$(cowdconfdir)/cowd.conf' || \
		$(INSTALL_DATA) $(srcdir)/systemd/cowd.conf '$(DESTDIR)$(cowdconfdir)/cowd.conf'
uninstall-local:
	rm -f '$(DESTDIR)$(sysusersdir)/cowd.conf' '$(DESTDIR)$(tmpfilesdir)/cowd.conf'
	if cmp -s $(srcdir)/systemd/cowd.conf '$(DESTDIR)$(cowdconfdir)/cowd.conf'; then \
		rm -f '$(DESTDIR)$(cowdconfdir)/cowd.conf'; \
	fi
	-rmdir '$(DESTDIR)$(cowdconfdir)' 2>/dev/null
