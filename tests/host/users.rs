//! Owner, group, root, readers, and links that a member of the group puts in the way.
