"""The feature cache: HDF5 parts, their digest, export to one file."""
