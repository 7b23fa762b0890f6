//! Guests that try to leave their volumes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use expect_test::expect;

use super::neighbour::Neighbour;
use crate::shim::{Shim, guest};

#[tokio::test]
async fn no_path_leads_out_of_a_volume() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let host = shim.dir.path().join("host");
    let (data, other) = (host.join("data"), host.join("other"));
    fs::create_dir_all(data.join("sub")).expect("a directory can be made");
    fs::create_dir_all(&other).expect("a directory can be made");
    fs::write(host.join("secret"), "the host's own").expect("it can be written");
    fs::write(data.join("own"), "the volume's").expect("it can be written");
    fs::write(other.join("kept"), "kept").expect("it can be written");
    // A host that is careless, or another pod with the same volume.
    symlink(host.join("secret"), data.join("link-file")).expect("a link can be made");
    symlink(&host, data.join("link-dir")).expect("a link can be made");
    symlink("..", data.join("link-up")).expect("a link can be made");
    symlink("own", data.join("link-within")).expect("a link can be made");
    for dir in [&host, &data, &data.join("sub"), &other] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("it is ours");
    }
    for file in [host.join("secret"), data.join("own"), other.join("kept")] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o666)).expect("it is ours");
    }
    let thief = guest("abuse").args(&["escape", "/data", "secret"]).mount(&data, "/data", false);
    let pod = shim.run("thief", thief.mount(&other, "/other", true)).await;
    let ending = shim.ending(&pod.container).await;
    let told: String =
        shim.log("thief", "main").lines().map(|line| format!("{}\n", &line["stdout F ".len()..])).collect();
    expect![[r#"
        escape: ..: not-permitted
        sub/../..: not-permitted
        absolute: not-permitted
        host link to a file: not-permitted
        host link to a file, not followed: loop
        host link to a directory: not-permitted
        host link upwards: not-permitted
        host link within: got the volume's
        own absolute link: not-permitted
        own link upwards: not-permitted
        own link in two steps: not-permitted
        new file above: not-permitted
        new file through a link: not-permitted
        new directory above: not-permitted
        rename out: not-permitted
        rename in: not-permitted
        hard link in: not-permitted
        hard link out: not-permitted
        hard link of a link: invalid
        unlink above: not-permitted
        stat above: not-permitted
        read link: not-permitted
        rename across volumes: not-permitted
        write where only reading is allowed: not-permitted
        remove where only reading is allowed: not-permitted
        0 Completed ""
    "#]]
    .assert_eq(&format!("{told}{ending}\n"));
    assert_eq!(fs::read_to_string(host.join("secret")).expect("it is there"), "the host's own");
    let mut names: Vec<_> =
        fs::read_dir(&host).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["data", "other", "secret"], "nothing was planted");
    let kept: Vec<_> = fs::read_dir(&other).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(kept, ["kept"], "a volume that may only be read is as it was");
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn directories_as_deep_as_can_be_are_the_volumes_own_trouble() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let data = shim.dir.path().join("data");
    fs::create_dir(&data).expect("a directory can be made");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let pod = shim.run("deep", guest("abuse").args(&["deep", "/data", "3000"]).mount(&data, "/data", false)).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    assert!(shim.log("deep", "main").contains("then name-too-long"), "{}", shim.log("deep", "main"));
    shim.remove_pod(&pod.sandbox).await;
    neighbour.unharmed(&shim).await;
}
