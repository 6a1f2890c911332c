"""The units of systemd/, judged by systemd's own tools and run by a real one."""
