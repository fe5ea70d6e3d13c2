//! nestling.

fn main() {
    if std::process::id() == 1 {
        nestling::guest::run();
    }
}
