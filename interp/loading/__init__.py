"""From a name, a folder or an object to a hooked model: the hub, folders on disk, devices."""
