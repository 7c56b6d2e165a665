//! temporary
pub struct Meter; pub struct MeterSeed;
impl Meter { pub fn new(_: &crate::store::Journal, _: usize) -> MeterSeed { MeterSeed } }
impl MeterSeed { pub fn grow(self) -> Meter { Meter } }
