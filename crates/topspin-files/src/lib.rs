//! File access whose errors name the path, and writes that happen whole or not at all.
