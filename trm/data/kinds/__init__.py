"""The kinds of data: `data.kind: maze` means the module `maze` in this folder, which is all there is to registering."""
