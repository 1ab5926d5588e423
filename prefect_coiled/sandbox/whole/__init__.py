"""What planes of whole machines have in common: systemd and cloud-init inside, on the network of `netns`.

machines    an instance with a cable and DHCP, and the plane of such instances
dhcp        pure: what a network card is told; and a thread that tells it
way_out     TCP connections and DNS questions that leave the sandbox, carried on by its process
"""
