//! FUSE messages against the real file system.
//!
//! What must hold is in `session`.

#![no_main]

use extentfsd_fuzz::ground::Ground;
use extentfsd_fuzz::input::Input;
use extentfsd_fuzz::session::{self, Source};

libfuzzer_sys::fuzz_target!(init: { Ground::get(); }, |bytes: &[u8]| {
    session::run(Input::new(bytes), Ground::get(), Source::File);
});
