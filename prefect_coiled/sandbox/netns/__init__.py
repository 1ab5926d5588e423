"""The data plane whose firewall is real: each instance in a network namespace of its own.

    namespace   one network namespace: made, entered, configured
    ruleset     pure: what is said of a VPC -> its nftables rules
    internet    the namespace between the client, AWS's endpoints and the VPCs
    vpc         the namespace of one VPC: its router, its firewall, its instances' links, their metadata
    tap         a link whose other end is an open file, for machines with a kernel of their own
    machines    the plane itself, and an instance as a process tree in its namespace

                      198.19.x.1              198.19.x.2
    the client's namespace ───── its link ───── internet ───── VPC ───── an instance: eth0, 10.77.0.4
                                   AWS's API 198.19.x.3        metadata at 169.254.169.254
                                          S3 198.19.x.4

Nothing has a name that outlives the sandbox: namespaces are held by file descriptors of its process alone
(and by what runs in them), so with its end, also by SIGKILL, the kernel takes down namespaces, links and
rules. The client's link is one end of a pair whose other end is inside, so it goes too.
"""
