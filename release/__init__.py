"""Publishing from the sources: wheels and their checks, the kernel of the Hub."""
