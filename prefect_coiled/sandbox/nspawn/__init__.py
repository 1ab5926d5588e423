"""The data plane whose machines are whole but for their kernel: systemd, cloud-init, a disk, in a container.

machines    the plane itself, and an instance as a machine of systemd-nspawn
"""
