//! Messages and services of the Beam client's interface, generated from `proto/`.

macro_rules! package {
    ($name:ident) => {
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            clippy::all,
            clippy::allow_attributes_without_reason,
            clippy::doc_markdown,
            clippy::large_futures,
            clippy::use_self,
            clippy::semicolon_if_nothing_returned,
            clippy::needless_pass_by_value,
            reason = "generated; documented in proto/"
        )]
        #[expect(
            clippy::allow_attributes,
            reason = "which lints the generated code trips depends on the generator"
        )]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    };
}

package!(gateway);
package!(image);
package!(pod);
package!(types);
package!(volume);
