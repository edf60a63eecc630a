//! Which call sites keep pages from being given back.
//!
//! A page goes back to the system when no block on it is live. What is resident and free is on pages
//! with live blocks of the same size class, so it is divided among the call sites that have live
//! objects of that class, in proportion to how many. That is an attribution, not a measurement: the
//! sampler knows how many objects of a class a call site has, and not on which pages they are.

use super::Profile;

/// A size class, and what of its pages is resident and free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FreeBlocks {
    /// The size of its blocks, in bytes.
    pub block_bytes: u64,
    /// Free blocks on resident pages, in bytes.
    pub free_bytes: f64,
}

/// Free bytes by who keeps them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fragmentation {
    /// For each of [`Profile::stacks`].
    pub by_stack: Vec<f64>,
    /// Those of size classes of which no live block was sampled.
    pub unsampled: Vec<FreeBlocks>,
}

/// Divides what is free in `classes`, which are in the order of their sizes.
pub fn divide(profile: &Profile, classes: &[FreeBlocks]) -> Fragmentation {
    let class_of = |bytes: u64| {
        let class = classes.partition_point(|class| class.block_bytes < bytes);
        (class < classes.len()).then_some(class)
    };
    let mut objects = vec![0.0; classes.len()];
    for sample in &profile.live {
        if let Some(class) = class_of(sample.bytes) {
            objects[class] += sample.weight;
        }
    }
    let mut found = Fragmentation { by_stack: vec![0.0; profile.stacks.len()], unsampled: vec![] };
    for sample in &profile.live {
        if let Some(class) = class_of(sample.bytes).filter(|&class| objects[class] > 0.0) {
            let share = sample.weight / objects[class];
            found.by_stack[sample.stack] += share * classes[class].free_bytes;
        }
    }
    let unsampled = classes.iter().zip(&objects);
    let unsampled = unsampled.filter(|(class, objects)| **objects == 0.0 && class.free_bytes > 0.0);
    found.unsampled = unsampled.map(|(class, _)| *class).collect();
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::made_up;
    use super::*;

    #[test]
    fn free_blocks_go_to_those_who_have_live_ones_of_their_size() {
        let mut profile = made_up();
        profile.live[2].bytes = 1000;
        let class = |block_bytes, free_bytes| FreeBlocks { block_bytes, free_bytes };
        let classes = [class(16, 0.0), class(896, 500.0), class(1024, 4400.0), class(2048, 0.0)];
        let found = divide(&profile, &classes);
        // 100 objects of the first stack and 1,000 of the second.
        assert_eq!(found.by_stack, [400.0, 4000.0, 0.0]);
        assert_eq!(found.unsampled, [class(896, 500.0)]);
    }

    #[test]
    fn large_blocks_have_no_class() {
        let mut profile = made_up();
        profile.live.iter_mut().for_each(|sample| sample.bytes = 1 << 20);
        let classes = [FreeBlocks { block_bytes: 1024, free_bytes: 10.0 }];
        let found = divide(&profile, &classes);
        assert_eq!(found.by_stack, [0.0; 3]);
        assert_eq!(found.unsampled, classes);
    }
}
