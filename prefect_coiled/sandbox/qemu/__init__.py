"""The data plane whose machines are virtual ones, as on AWS: firmware, a kernel of their own, a disk, a card.

machines    the plane itself, and an instance as a machine of QEMU
command     pure: the command line of one machine
disks       the disk that all machines of an image start from, and what each writes over it
host        what this computer must have for it, and whether its processor helps
"""
