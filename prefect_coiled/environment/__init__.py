"""The client's environment, on its way to the machines.

    capture    what is installed here, and where each package came from          -> Environment
    lock       which wheels those are on Linux, by name and hash; no resolution  -> Lock
    pins       asks the package indexes for the files of versions that are known
    target     what the machines run, and which wheels fit
    build      wheels of what no index has: directories, repositories, sources
    rewrite    those wheels written anew: named as installed, without what stays here
    kept       those of them that need not be built a second time
    sites      the folders of packages
    installed  which modules belong to packages, or to Python; conda what its own records say of that
    elf        which libraries a compiled file asks for
    module_places, archives, ignored, tracked, modules, modules_wheel
               the program's own modules: where they are, what stays, a wheel of them
    indexes    where pip and uv look for packages, and the credentials for it

Reads this machine and package indexes; knows nothing of AWS and Prefect.
"""

from prefect_coiled.environment.capture import capture
from prefect_coiled.environment.lock import Locked, lock
from prefect_coiled.environment.records import DISTRIBUTION, Environment, Lock, Package, Wheel

__all__ = ["DISTRIBUTION", "Environment", "Lock", "Locked", "Package", "Wheel", "capture", "lock"]
