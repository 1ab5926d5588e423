"""The data plane whose machines are whole: systemd, cloud-init, a disk, on the network of `netns`.

machines    the plane itself, and an instance as a machine of systemd-nspawn
dhcp        pure: what a network card is told; and a thread that tells it
way_out     TCP connections and DNS questions that leave the sandbox, carried on by its process
"""
