# sources of systemd/
