"""Files that we keep on this machine: run journals, the run lock, caches; under the XDG folders."""
