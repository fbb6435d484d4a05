//! What does a launcher learn from `--print-capabilities`?
//!
//! The format is that of QEMU's `docs/interop/vhost-user.json`. libvirt looks for `separate-options`
//! before it uses options other than `-o`, and for `migrate-precopy` before it migrates, so the list
//! names what works in this version and nothing else.

/// The document, pretty-printed as virtiofsd does, with a final newline.
pub const CAPABILITIES: &str = r#"{
  "type": "fs",
  "features": [
    "posix-acl-negotiation-mode",
    "security-label-negotiation-mode",
    "separate-options"
  ]
}
"#;
