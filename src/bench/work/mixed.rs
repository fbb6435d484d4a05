//! What does a guest do that does a bit of everything?

use super::io::{Order, Transfers};
use super::names::{Change, Changes, Existing, Question};
use super::{Assignment, Progress, READ_ONLY, Script};
use crate::bench::Error;
use crate::bench::random::Random;
use crate::frontend::{Channel, Reply};

/// Each operation is drawn anew.
pub(super) struct Mixed {
    random: Random,
    /// Each with its share of a hundred operations.
    parts: [(u64, Box<dyn Script>); 6],
    /// Which part each slot is busy with.
    chosen: Vec<usize>,
}

impl Mixed {
    pub(super) fn new(to: &Assignment) -> Self {
        Self {
            random: Random::new(to.seed ^ u64::from(to.thread)),
            parts: [
                (35, Box::new(Transfers::new(to, Order::Random, 0))),
                (15, Box::new(Transfers::new(to, Order::Random, 100))),
                (20, Box::new(Existing::new(to, Question::Getattr))),
                (15, Box::new(Existing::new(to, Question::Lookup))),
                (10, Box::new(Existing::new(to, Question::Open(READ_ONLY)))),
                (5, Box::new(Changes::new(to, Change::Create))),
            ],
            chosen: vec![0; usize::from(to.depth)],
        }
    }

    fn part(&mut self, slot: u16) -> Result<&mut Box<dyn Script>, Error> {
        let index = self.chosen.get(usize::from(slot)).copied().unwrap_or_default();
        let part = self.parts.get_mut(index).map(|(_, part)| part);
        part.ok_or_else(|| crate::frontend::Error::StrayUsed(slot.into()).into())
    }
}

impl Script for Mixed {
    fn set_up(&mut self, channel: &mut Channel) -> Result<(), Error> {
        self.parts.iter_mut().try_for_each(|(_, part)| part.set_up(channel))
    }

    fn begin(&mut self, channel: &mut Channel, slot: u16) -> Result<(), Error> {
        let mut drawn = self.random.below(100);
        let chosen = self.parts.iter().position(|(share, _)| {
            let hit = drawn < *share;
            drawn = drawn.saturating_sub(*share);
            hit
        });
        if let Some(place) = self.chosen.get_mut(usize::from(slot)) {
            *place = chosen.unwrap_or_default();
        }
        self.part(slot)?.begin(channel, slot)
    }

    fn answer(&mut self, channel: &mut Channel, reply: Reply) -> Result<Progress, Error> {
        self.part(reply.slot)?.answer(channel, reply)
    }

    fn put_away(&mut self, channel: &mut Channel) -> Result<(), Error> {
        self.parts.iter_mut().try_for_each(|(_, part)| part.put_away(channel))
    }
}
